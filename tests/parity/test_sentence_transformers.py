"""sentence-transformers itself opens a serving checkpoint and gives the server's vectors."""

import logging

import numpy as np
import pytest
from PIL import Image

from lensemble.profile import Profile
from lensemble_client import Item
from tests.pictures import encode as png

TEXTS = ["a red car", "  two\n lines ", "perro " * 40, "用户"]


@pytest.fixture(scope="module")
def pictures():
    """Of several sizes: enlarged, kept, thin, reduced."""
    random = np.random.default_rng(0)
    sizes = [(20, 30), (256, 256), (40, 700), (1500, 1300)]
    return [
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).resize(
            size[::-1], Image.Resampling.BICUBIC
        )
        for size in sizes
    ]


@pytest.fixture(scope="module", params=["qwen3-vl-embedding", "qwen3-vl-mean"])
def opened(request, checkpoints, pipelines):
    """The same checkpoint in both: (sentence-transformers, the server's pipeline)."""
    from sentence_transformers import SentenceTransformer

    folder = checkpoints[request.param]
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    return model, pipelines[request.param]


def cosines(theirs, ours):
    return np.array([float(a @ b) for a, b in zip(theirs, ours, strict=True)])


def test_texts(opened):
    model, pipeline = opened
    expected = pipeline.embed([Item(text) for text in TEXTS])
    # All of them in one padded batch, and each as a query and as a document.
    for encode in (model.encode, model.encode_query, model.encode_document):
        assert cosines(encode(TEXTS), expected).min() > 0.99999


def test_pictures_and_both(opened, pictures):
    model, pipeline = opened
    expected = pipeline.embed([Item(images=(png(each),)) for each in pictures])
    assert cosines(model.encode(pictures), expected).min() > 0.999
    both = [{"text": "the same, but green", "image": each} for each in pictures[:2]]
    expected = pipeline.embed([Item(each["text"], images=(png(each["image"]),)) for each in both])
    assert cosines(model.encode(both), expected).min() > 0.999


def test_prompt_replaces_the_instruction(opened):
    model, pipeline = opened
    expected = pipeline.embed([Item("perro", instruction="Find the animal.")])
    assert cosines(model.encode(["perro"], prompt="Find the animal."), expected).min() > 0.99999
    assert cosines(expected, pipeline.embed([Item("perro")])).max() < 0.9999
    # A blank one does not, as in the official embedder.
    for blank in ("", "  "):
        theirs = model.encode(["perro"], prompt=blank)
        assert cosines(theirs, pipeline.embed([Item("perro")])).min() > 0.99999


def test_folder_is_opened_without_a_warning(checkpoints, caplog):
    from sentence_transformers import SentenceTransformer

    folder = checkpoints["qwen3-vl-embedding"]
    with caplog.at_level(logging.WARNING):
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    assert caplog.records == []
    profile = Profile.load(folder)
    assert model.get_embedding_dimension() == profile.dimension
    assert model.max_seq_length == profile.max_tokens
