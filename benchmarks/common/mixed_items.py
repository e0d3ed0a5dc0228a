"""A mixed set of items: texts of up to 200 tokens, pictures of up to 1,024 patches."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.common.photos import PHOTOS, encoded, read_photo
from lensemble_client import Item

WORDS = (
    "front rear left right bumper door headlight windshield dent scratch crack rust broken bent "
    "el la de parachoques puerta faro parabrisas golpe rayón grieta óxido roto doblado izquierdo"
).split()


def mixed_items(count: int, seed: int = 0) -> list[Item]:
    """Makes half texts and half pictures (a third of them with a text), in random order.

    Args:
        count: Number of items.
        seed: Seed of the random choices; the same seed gives the same items.
    """
    rng = np.random.default_rng(seed)
    photos = [Image.open(io.BytesIO(read_photo(name))).convert("RGB") for name in PHOTOS]
    items = []
    for n in range(count):
        text = " ".join(rng.choice(WORDS, int(rng.integers(3, 185))))
        if n % 2:
            patches = int(np.exp(rng.uniform(np.log(70), np.log(960))))
            width = int(16 * np.sqrt(patches) * rng.uniform(0.75, 1.33))
            height = 256 * patches // width
            picture = encoded(photos[int(rng.integers(len(photos)))].resize((width, height)))
            items.append(Item(text if n % 6 == 1 else None, (picture,)))
        else:
            items.append(Item(text))
    return [items[n] for n in rng.permutation(count)]
