"""Sets of different items as files, made from the bundle's photographs.

The machine's interpreters need not have the packages that contain the photographs, and equal
pictures would be encoded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.mixed_items import WORDS
from benchmarks.common.photos import encoded
from lensemble_client import Item

SETS = ("448x448", "mixed", "text")
_INDEX = "items.jsonl"
# Patches of the pictures in `mixed`, on a logarithmic scale, as `benchmarks.common.mixed_items`.
_PATCHES = (70, 960)


def write_sets(photos: Path, folder: Path, count: int) -> None:
    """Writes all sets.

    - `448x448`: pictures of that size.
    - `mixed`: half texts of up to 184 words, half pictures of up to 960 patches, a third of them
      with a text.
    - `text`: texts of 3 to 12 words.

    Args:
        photos: Folder of JPEG files.
        folder: Folder that has a folder for each set.
        count: Number of items of each set; all are different.
    """
    rng = np.random.default_rng(0)
    files = sorted(photos.glob("*.jpg"))
    if not files:
        raise FileNotFoundError(f"no photographs in {str(photos)!r}")
    pictures = [Image.open(path).convert("RGB") for path in files]
    for name in SETS:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        lines = []
        for n, (text, size) in enumerate(_items(name, count, rng)):
            if size is not None:
                crop = _random_crop(pictures[n % len(pictures)], rng).resize(size)
                (target / f"{n}.jpg").write_bytes(encoded(crop))
            lines.append(json.dumps({"text": text, "picture": f"{n}.jpg" if size else None}))
        (target / _INDEX).write_text("\n".join(lines) + "\n")


def read_set(folder: Path) -> list[Item]:
    """Reads one set.

    Args:
        folder: Folder of the set.
    """
    items = []
    for line in (folder / _INDEX).read_text().splitlines():
        entry = json.loads(line)
        pictures = ((folder / entry["picture"]).read_bytes(),) if entry["picture"] else ()
        items.append(Item(entry["text"], pictures))
    return items


def _items(
    name: str, count: int, rng: np.random.Generator
) -> Iterator[tuple[str | None, tuple[int, int] | None]]:
    """Yields text and size of the picture of each item."""
    for n in range(count):
        if name == "448x448":
            yield None, (448, 448)
        elif name == "text" or n % 2 == 0:
            words = rng.choice(WORDS, int(rng.integers(3, 13 if name == "text" else 185)))
            yield f"{' '.join(words)} {n}", None
        else:
            patches = np.exp(rng.uniform(*np.log(_PATCHES)))
            width = int(16 * np.sqrt(patches) * rng.uniform(0.75, 1.33))
            size = (width, int(256 * patches / width))
            yield (" ".join(rng.choice(WORDS, 8)) if n % 6 == 1 else None), size


def _random_crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.6, 1.0)
    wide, high = (max(1, int(side * share)) for side in photo.size)
    left, top = (
        int(rng.integers(0, side - used + 1))
        for side, used in zip(photo.size, (wide, high), strict=True)
    )
    return photo.crop((left, top, left + wide, top + high))
