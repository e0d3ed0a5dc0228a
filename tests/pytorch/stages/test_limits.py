"""Every model checks the limits of what is sent to it directly, past the steps before it."""

from types import SimpleNamespace

import numpy as np
import pytest

from lensemble.settings import Settings
from lensemble.stages.clip import ClipStage
from lensemble.stages.encode import EncodeStage
from lensemble.stages.sentence import SentenceStage
from lensemble_client import InvalidInputError
from lensemble_contract import contract


@pytest.fixture(scope="module")
def encode_stage(checkpoint):
    return EncodeStage(Settings(checkpoint=checkpoint, dtype="fp32"), "cpu")


def features(tokens, patches=0, grid=()):
    return {
        "input_ids": np.full((1, tokens), 5, np.int32),
        "patches": np.zeros((1, patches, contract.PATCH_VALUES), np.uint8),
        "image_grid_thw": np.array([grid], np.int32).reshape(1, -1, 3),
        "deadline": np.zeros((1, 1), np.int64),
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (features(1_000_000), "input_ids: the prompt has 1000000 tokens; at most 8192; shorten"),
        (features(8193), "input_ids: the prompt has 8193 tokens; at most 8192"),
        (features(3, 40_000, (1, 200, 200)), "patches: 40000 patches for a prompt of 3 tokens"),
    ],
)
def test_encoder_refuses_a_prompt_that_preprocess_would_refuse(encode_stage, rows, message):
    """Before the row waits in a lane: it would take more than a pass of its own."""
    (refused,) = encode_stage.read(rows, {})
    assert isinstance(refused, InvalidInputError)
    with pytest.raises(InvalidInputError, match=message):
        raise refused


def test_encoder_accepts_the_longest_prompt(encode_stage):
    longest = encode_stage._encoder.profile.max_tokens
    (row,) = encode_stage.read(features(longest), {})
    assert len(row[0].input_ids) == longest


def test_engine_checks_the_length_itself(encode_stage):
    """For callers without a stage, such as the pipeline."""
    (row,) = encode_stage.read(features(5), {})
    item = row[0]
    long = type(item)(np.full(8193, 5, np.int32), item.patches, item.image_grid_thw)
    (refused,) = encode_stage._encoder.encode([long])
    assert "the prompt has 8193 tokens" in str(refused)


def without_model(stage_class, **encoder):
    """A stage whose encoder has only the given attributes: nothing is encoded here."""
    stage = stage_class.__new__(stage_class)
    stage._encoder = SimpleNamespace(dimension=4, **encoder)
    return stage


@pytest.mark.parametrize(("count", "sent"), [(17, 17), (3, 2), (-1, 2)])
def test_clip_refuses_more_pictures_than_an_item_may_have(count, sent):
    stage = without_model(ClipStage, check=lambda _: None)
    rows = {
        "input_ids": np.full((1, 3), 5, np.int32),
        "pixels": np.zeros((1, sent, 2, 2, 3), np.uint8),
        "pictures": np.array([[count]], np.int32),
        "deadline": np.zeros((1, 1), np.int64),
    }
    (refused,) = stage.read(rows, {})
    assert isinstance(refused, InvalidInputError)
    assert refused.field == "pictures"
    assert f"expected 0 to {min(sent, contract.MAX_IMAGES_PER_ITEM)}" in str(refused)


LONG = b"x" * (contract.MAX_TEXT_BYTES + 1)


@pytest.mark.parametrize(
    ("text", "description", "tokens", "message"),
    [
        (LONG, b"", 0, "own_text: 1048577 bytes of text; at most 1048576"),
        (b"", LONG, 0, "description: 1048577 bytes of text"),
        (b"\xff", b"", 0, "own_text: not valid UTF-8 at byte 0"),
        (b"x", b"", -1, "chat_tokens: -1; expected 0 or more"),
    ],
)
def test_sentence_refuses_what_describe_cannot_have_sent(text, description, tokens, message):
    rows = {
        "own_text": np.array([[text]], np.object_),
        "description": np.array([[description]], np.object_),
        "chat_tokens": np.array([[tokens]], np.int32),
    }
    (refused,) = without_model(SentenceStage).read(rows, {})
    with pytest.raises(InvalidInputError, match=message):
        raise refused
