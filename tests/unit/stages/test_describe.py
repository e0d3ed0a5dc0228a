"""The stage `describe`, called directly: only what `hybrid_preprocess` can have made is sent on."""

import numpy as np
import pytest

from lensemble.embedders.chat_input import ChatInput
from lensemble.stages.describe import DescribeStage
from lensemble_client import InvalidInputError
from lensemble_contract import contract

JPEG = b"\xff\xd8\xff rest"


def read(text, *jpegs):
    stage = DescribeStage.__new__(DescribeStage)  # nothing is described here
    rows = {
        "own_text": np.array([[text]], np.object_),
        "jpegs": np.array([jpegs], np.object_),
        "deadline": np.zeros((1, 1), np.int64),
    }
    (row,) = stage.read(rows, {})
    return row


def test_text_and_pictures_are_read_without_padding():
    assert read(b"a text", JPEG, JPEG, b"") == ChatInput("a text", (JPEG, JPEG))
    assert read(b"") == ChatInput("", ())


@pytest.mark.parametrize(
    ("text", "jpegs", "message"),
    [
        (b"", (JPEG,) * 17, "jpegs: 17 pictures in one item; at most 16"),
        (b"", (JPEG, b"\x89PNG"), r"jpegs\[1\]: expected a JPEG file"),
        (b"", (JPEG + bytes(contract.MAX_IMAGE_BYTES),), r"jpegs\[0\]: .* bytes; at most 20971520"),
        (b"x" * (contract.MAX_TEXT_BYTES + 1), (JPEG,), "own_text: 1048577 bytes of text"),
        (b"\xff", (JPEG,), "own_text: not valid UTF-8"),
    ],
)
def test_more_than_an_item_may_have_is_not_sent_to_the_chat_server(text, jpegs, message):
    refused = read(text, *jpegs)
    assert isinstance(refused, InvalidInputError)
    with pytest.raises(InvalidInputError, match=message):
        raise refused
