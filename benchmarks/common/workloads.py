"""Workloads: a checkpoint, and the items that are sent to it. No item is repeated.

- `demo`: the emoji checkpoint with its own pictures and names. Model and pictures are small, so the
  cost around the model dominates.
- `small`: random weights, about 100 million parameters, with photographs of 300 to 600 pixels a
  side and texts of 3 to 40 words. The cost of the arithmetic dominates.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.mixed_items import WORDS
from benchmarks.common.photos import PHOTOS, encoded, read_photo
from lensemble_client import Item

DATASET = Path("demo/dataset")
# Instruction of the checkpoints' profiles.
INSTRUCTION = "Represent the user's input."
LANGUAGES = ("en", "es", "fr", "de", "pt", "it")
# Smallest and largest side of a photograph in pixels.
SIDES = (300, 600)

# Mix -> kinds of items, which are repeated in this order. In `mixed`, half are texts and a sixth
# have both a text and a picture.
MIXES: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "picture": ("picture",),
    "fused": ("fused",),
    "mixed": ("text", "picture", "text", "picture", "text", "fused"),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """A checkpoint and the items that are sent to it.

    Attributes:
        checkpoint: Function that returns its folder, which is made if it is missing.
        texts: Function from a seed to an endless sequence of different texts.
        pictures: Function from a seed to an endless sequence of encoded pictures, the first 500 of
            which are different.
    """

    checkpoint: Callable[[], Path]
    texts: Callable[[int], Iterator[str]]
    pictures: Callable[[int], Iterator[bytes]]

    def items(self, mix: str, count: int, seed: int = 0) -> list[Item]:
        """Makes items; the same seed gives the same items.

        Args:
            mix: A key of `MIXES`.
            count: Number of items.
            seed: Seed of the random choices.
        """
        texts, pictures, kinds = self.texts(seed), self.pictures(seed), MIXES[mix]
        items = []
        for n in range(count):
            kind = kinds[n % len(kinds)]
            images = () if kind == "text" else (next(pictures),)
            items.append(Item(None if kind == "picture" else next(texts), images))
        return items


def _names(seed: int) -> Iterator[str]:
    """Names of emoji in six languages; when they run out, the same names with a number."""
    names = sorted({str(line[language]) for line in _corpus() for language in LANGUAGES})
    order = np.random.default_rng(seed).permutation(len(names))
    repetition = 0
    while True:
        yield from (names[n] + (f" {repetition}" if repetition else "") for n in order)
        repetition += 1


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
    """Random crops of real photographs, as JPEG."""
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
    # Imported here, because it imports torch, which takes seconds.
    from benchmarks.common.random_checkpoint import random_serving_checkpoint

    return random_serving_checkpoint("small")


WORKLOADS = {
    "demo": Workload(lambda: Path("demo/checkpoint"), _names, _emoji),
    "small": Workload(_small_checkpoint, _sentences, _photographs),
}
