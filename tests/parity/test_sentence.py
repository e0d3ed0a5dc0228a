"""The hybrid's vectors against sentence-transformers, with the real MiniLM."""

import numpy as np
import pytest

from lensemble.embedders.sentence import Said
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


def test_vectors_equal_sentence_transformers(stage, reference):
    items = [Said("a red hat", "", 0), Said("", "a blue picture", 40), Said("Uno", "dos", 2)]
    made = stage.run(items)
    texts = ("a red hat", "a blue picture", "Uno\ndos")
    for item, one, text in zip(items, made, texts, strict=True):
        assert cosine(one.vector, reference(text)) >= 0.99999
        (alone,) = stage.run([item])
        np.testing.assert_allclose(one.vector, alone.vector, atol=1e-5)
    assert [one.tokens for one in made] == [5, 5 + 40, 4 + 2]  # [CLS] and [SEP] are counted


def test_real_weights_know_what_is_alike(stage):
    texts = ("a red hat", "a hat that is red", "income tax law")
    one, same, other = (made.vector for made in stage.run([Said(text, "", 0) for text in texts]))
    assert one @ same > 0.8
    assert one @ other < 0.3


def test_description_is_cut_and_text_is_not(stage, reference):
    long = "word " * 300
    described, text, own = stage.run([Said("mine", long, 0), Said(long, "", 0), Said(long, "x", 0)])
    assert cosine(described.vector, reference(f"mine\n{long}")) >= 0.99999
    assert described.tokens == 256
    for one in (text, own):
        assert isinstance(one, InvalidInputError)
        assert "text: 302 tokens; the embedder 'hybrid' takes at most 256" in str(one)


def test_one_call_for_all_and_a_bad_one_fails_alone(stage, monkeypatch):
    calls = []
    encode = stage._encoder._model.encode

    def counted(texts, **options):
        calls.append(len(texts))
        if "bad" in texts:
            raise ValueError("bad")
        return encode(texts, **options)

    monkeypatch.setattr(stage._encoder._model, "encode", counted)
    good, bad, empty = stage.run([Said("good", "", 0), Said("bad", "", 0), Said("", "", 0)])
    assert len(good.vector) == 384
    assert isinstance(bad, InternalError)
    assert isinstance(empty, InvalidInputError)
    calls.clear()
    stage.run([Said(str(n), "", 0) for n in range(40)])
    assert calls == [40]


def test_other_lengths_are_refused(stage):
    rows = {
        "own_text": np.array([[b"a"]], np.object_),
        "description": np.array([[b""]], np.object_),
        "chat_tokens": np.zeros((1, 1), np.int32),
    }
    assert stage.read(rows, {"dimensions": "384"}) == [Said("a", "", 0)]
    with pytest.raises(InvalidInputError, match=r"dimensions: 64; .* gives 384 only"):
        stage.read(rows, {"dimensions": 64})


def test_profile_is_of_weights_chat_model_and_prompt(stage, settings):
    profile = stage.info["profile"]
    same = settings.with_changes(chat_url="http://127.0.0.1:10/v1", chat_key="k")
    assert SentenceStage(same, "cpu").info["profile"] == profile
    for change in ({"chat_model": "other"}, {"describe_prompt": "?"}, {"describe_tokens": 9}):
        other = settings.with_changes(**change)
        assert SentenceStage(other, "cpu").info["profile"] != profile
