"""Recall during training: clean pictures and their names as queries, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from demo.emoji.concepts import Picture
from demo.emoji.render import on_white
from demo.emoji.write_dataset import SAME_THING, SIZE
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.vectors import Vector
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item

LANGUAGES = ("en", "es")


def embed(
    encoder: TorchEngine, preprocess: Preprocessor, items: Sequence[Item]
) -> NDArray[np.float32]:
    """Returns the vectors of items.

    Args:
        encoder: TorchEngine.
        preprocess: Preprocessor of its checkpoint.
        items: N items.

    Returns:
        (N, D) float32, unit length.

    Raises:
        LensembleError: An item cannot be embedded.
    """
    return np.stack(_without_errors(encoder.encode([preprocess(item) for item in items])))


def clean_pictures(
    pictures: Sequence[Picture],
    rendered: Mapping[str, NDArray[np.uint8]],
    instruction: str | None = None,
) -> list[Item]:
    """Returns one item per picture, undamaged and on white."""
    return [
        Item.of(image=on_white(rendered[picture.id], SIZE), instruction=instruction)
        for picture in pictures
    ]


def format_recall(
    encoder: TorchEngine,
    checkpoint: Checkpoint,
    pictures: Sequence[Picture],
    rendered: Mapping[str, NDArray[np.uint8]],
    k: int = 10,
) -> str:
    """Returns the capped recall at k among pictures as text: names by language, and variants.

    Args:
        encoder: TorchEngine in training.
        checkpoint: Checkpoint with its tokenizer and profile.
        pictures: Pictures that are both searched and used as queries.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        k: Number of hits.
    """
    preprocess = Preprocessor(checkpoint)
    corpus = embed(encoder, preprocess, clean_pictures(pictures, rendered))
    parts = []
    for language in LANGUAGES:
        names = [Item.of(picture.names[language]) for picture in pictures]
        scores = embed(encoder, preprocess, names) @ corpus.T
        ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
        parts.append(f"{language} {(ranks < k).mean():.3f}")
    queries = embed(encoder, preprocess, clean_pictures(pictures, rendered, SAME_THING))
    parts.append(f"variants {_variant_recall(queries @ corpus.T, pictures, k):.3f}")
    return " ".join(parts)


def _variant_recall(scores: NDArray[np.float32], pictures: Sequence[Picture], k: int) -> float:
    """Returns the mean capped recall at k over pictures that have variants."""
    concepts = np.array([picture.concept for picture in pictures])
    relevant = concepts[:, None] == concepts
    np.fill_diagonal(relevant, False)  # the picture itself is ignored
    np.fill_diagonal(scores, -np.inf)
    first = np.argsort(-scores, axis=1)[:, :k]
    counts = relevant.sum(axis=1)
    hits = np.take_along_axis(relevant, first, axis=1).sum(axis=1)
    return float((hits[counts > 0] / np.minimum(counts[counts > 0], k)).mean())


def _without_errors(results: Sequence[Vector | LensembleError]) -> list[Vector]:
    for result in results:
        if isinstance(result, LensembleError):
            raise result
    return [result for result in results if not isinstance(result, LensembleError)]
