"""Compares the hybrid embedder's vectors with sentence-transformers, with the real MiniLM."""

import numpy as np
import pytest

from lensemble.embedders.sentence_encoder import SentenceInput
from lensemble.settings import Settings
from lensemble.stages.sentence import SentenceStage
from lensemble_client import InternalError, InvalidInputError
from tests.parity.test_reference import cosine


@pytest.fixture(scope="module")
def settings(checkpoint, minilm):
    return Settings(
        checkpoint=checkpoint,
        sentence=str(minilm),
        chat_url="http://127.0.0.1:9/v1",
        chat_model="any",
        dtype="fp32",
    )


@pytest.fixture(scope="module")
def stage(settings):
    return SentenceStage(settings, "cpu")


@pytest.fixture(scope="module")
def reference(minilm):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")
    return lambda text: model.encode(text, normalize_embeddings=True, show_progress_bar=False)


def only_text(text):
    return SentenceInput(text, description="", chat_tokens=0)


def test_vectors_equal_sentence_transformers(stage, reference):
    items = [
        only_text("a red hat"),
        SentenceInput("", "a blue picture", 40),
        SentenceInput("Uno", "dos", 2),
    ]
    results = stage.run(items)
    texts = ("a red hat", "a blue picture", "Uno\ndos")
    for item, result, text in zip(items, results, texts, strict=True):
        assert cosine(result.vector, reference(text)) >= 0.99999
        (alone,) = stage.run([item])
        np.testing.assert_allclose(result.vector, alone.vector, atol=1e-5)
    # [CLS] and [SEP] are counted.
    assert [result.tokens for result in results] == [5, 5 + 40, 4 + 2]


def test_real_weights_recognize_similar_texts(stage):
    texts = ("a red hat", "a hat that is red", "income tax law")
    hat, same, other = (result.vector for result in stage.run([only_text(text) for text in texts]))
    assert hat @ same > 0.8
    assert hat @ other < 0.3


def test_long_description_is_cut_and_long_text_is_refused(stage, reference):
    long = "word " * 300
    described, *refused = stage.run(
        [SentenceInput("mine", long, 0), only_text(long), SentenceInput(long, "x", 0)]
    )
    assert cosine(described.vector, reference(f"mine\n{long}")) >= 0.99999
    assert described.tokens == 256
    for error in refused:
        assert isinstance(error, InvalidInputError)
        assert "text: 302 tokens; the embedder 'hybrid' takes at most 256" in str(error)


def test_items_share_one_call_and_a_bad_one_fails_alone(stage, monkeypatch):
    calls = []
    encode = stage._encoder._model.encode

    def recorded(texts, **options):
        calls.append(len(texts))
        if "bad" in texts:
            raise ValueError("bad")
        return encode(texts, **options)

    monkeypatch.setattr(stage._encoder._model, "encode", recorded)
    good, bad, empty = stage.run([only_text("good"), only_text("bad"), only_text("")])
    assert len(good.vector) == 384
    assert isinstance(bad, InternalError)
    assert isinstance(empty, InvalidInputError)
    calls.clear()
    stage.run([only_text(str(n)) for n in range(40)])
    assert calls == [40]


def test_other_dimensions_are_refused(stage):
    rows = {
        "own_text": np.array([[b"a"]], np.object_),
        "description": np.array([[b""]], np.object_),
        "chat_tokens": np.zeros((1, 1), np.int32),
    }
    assert stage.read(rows, {"dimensions": "384"}) == [only_text("a")]
    with pytest.raises(InvalidInputError, match=r"dimensions: 64; .* gives 384 only"):
        stage.read(rows, {"dimensions": 64})


def test_profile_depends_on_weights_chat_model_and_prompt(stage, settings):
    profile = stage.info["profile"]
    same = settings.with_changes(chat_url="http://127.0.0.1:10/v1", chat_key="k")
    assert SentenceStage(same, "cpu").info["profile"] == profile
    for change in ({"chat_model": "other"}, {"describe_prompt": "?"}, {"describe_tokens": 9}):
        other = settings.with_changes(**change)
        assert SentenceStage(other, "cpu").info["profile"] != profile
