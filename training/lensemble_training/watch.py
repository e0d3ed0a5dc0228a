"""How training goes: recall of clean pictures by their names, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import Embedding, Encoder
from lensemble.preprocess import Preprocessor
from lensemble_client.errors import LensembleError
from lensemble_client.items import Item
from lensemble_training.concepts import Picture
from lensemble_training.dataset import SIZE
from lensemble_training.render import on_white

LANGUAGES = ("en", "es")


def recall(
    encoder: Encoder,
    checkpoint: Checkpoint,
    pictures: Sequence[Picture],
    rendered: Mapping[str, NDArray[np.uint8]],
    k: int = 10,
) -> str:
    """Share of names whose picture is among the first k of `pictures`, per language.

    Args:
        encoder: In training.
        checkpoint: Its tokenizer and profile.
        pictures: Asked for and searched.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        k: How far to look.
    """
    preprocess = Preprocessor(checkpoint)

    def embed(items: Sequence[Item]) -> NDArray[np.float32]:
        return np.stack(_sound(encoder.encode([preprocess(item) for item in items])))

    corpus = embed([Item.of(image=on_white(rendered[p.id], SIZE)) for p in pictures])
    found = []
    for language in LANGUAGES:
        queries = embed([Item.of(picture.names[language]) for picture in pictures])
        scores = queries @ corpus.T
        ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
        found.append(f"{language} {(ranks < k).mean():.3f}")
    return " ".join(found)


def _sound(results: Sequence[Embedding | LensembleError]) -> list[Embedding]:
    for result in results:
        if isinstance(result, LensembleError):
            raise result
    return [result for result in results if not isinstance(result, LensembleError)]
