"""What load tests send, to which checkpoint: two workloads, no item twice.

- `demo`: the emoji checkpoint with its own pictures and names. A small model, small pictures: what
  is around the model decides.
- `small`: random weights, about 100 million parameters, with photographs of 300 to 600 pixels a
  side and texts of 3 to 40 words: arithmetic decides.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.mixed import WORDS
from benchmarks.common.photos import PHOTOS, encoded, read_photo
from lensemble_client import Item

DATASET = Path("demo/dataset")
LANGUAGES = ("en", "es", "fr", "de", "pt", "it")
SIDES = (300, 600)
"""Least and most pixels of a photograph's sides."""

MIXES: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "picture": ("picture",),
    "fused": ("fused",),
    "mixed": ("text", "picture", "text", "picture", "text", "fused"),
}
"""Mix -> kinds of items, over and over: of a mixed load half are texts, a sixth has both."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A checkpoint and what is sent to it.

    Attributes:
        checkpoint: Gives its folder, which is made if it is missing.
        texts: Seed -> texts without an end, none twice.
        pictures: Seed -> encoded pictures without an end, none twice in the first 500.
    """

    checkpoint: Callable[[], Path]
    texts: Callable[[int], Iterator[str]]
    pictures: Callable[[int], Iterator[bytes]]

    def items(self, mix: str, count: int, seed: int = 0) -> list[Item]:
        """Items, the same for the same seed.

        Args:
            mix: A key of `MIXES`.
            count: How many.
            seed: Of what is drawn.
        """
        texts, pictures, kinds = self.texts(seed), self.pictures(seed), MIXES[mix]
        items = []
        for n in range(count):
            kind = kinds[n % len(kinds)]
            images = () if kind == "text" else (next(pictures),)
            items.append(Item(None if kind == "picture" else next(texts), images))
        return items


def _names(seed: int) -> Iterator[str]:
    """Names of emoji in six languages, then numbered."""
    names = sorted({str(line[language]) for line in _corpus() for language in LANGUAGES})
    order = np.random.default_rng(seed).permutation(len(names))
    turn = 0
    while True:
        yield from (names[n] + (f" {turn}" if turn else "") for n in order)
        turn += 1


def _emoji(seed: int) -> Iterator[bytes]:
    files = sorted(str(line["image"]) for line in _corpus())
    while True:
        for n in np.random.default_rng(seed).permutation(len(files)):
            yield (DATASET / files[n]).read_bytes()


def _corpus() -> list[dict[str, object]]:
    lines = (DATASET / "corpus.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _sentences(seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        yield " ".join([*rng.choice(WORDS, int(rng.integers(2, 40))), str(number)])


def _photographs(seed: int) -> Iterator[bytes]:
    """Cut-outs of real photographs at random places, as JPEG."""
    rng = np.random.default_rng(seed)
    photos = [Image.open(io.BytesIO(read_photo(name))).convert("RGB") for name in PHOTOS]
    while True:
        photo = photos[int(rng.integers(len(photos)))]
        width, height = (int(rng.integers(SIDES[0], SIDES[1] + 1)) for _ in range(2))
        share = rng.uniform(0.6, 1.0)
        wide, high = (max(1, int(side * share)) for side in photo.size)
        left, top = (
            int(rng.integers(0, side - used + 1))
            for side, used in zip(photo.size, (wide, high), strict=True)
        )
        cut = photo.crop((left, top, left + wide, top + high))
        yield encoded(cut.resize((width, height)))


def _small_checkpoint() -> Path:
    from benchmarks.common.random_model import random_serving_checkpoint  # torch, seconds of import

    return random_serving_checkpoint("small")


WORKLOADS = {
    "demo": Workload(lambda: Path("demo/checkpoint"), _names, _emoji),
    "small": Workload(_small_checkpoint, _sentences, _photographs),
}
