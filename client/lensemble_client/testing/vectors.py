"""Makes vectors without a model."""

from __future__ import annotations

import hashlib

import numpy as np

from lensemble_client.results import Embedding
from lensemble_contract.items import Item

# This is long enough for scores near 0 between different items; their standard deviation is 1/8.
DIMENSION = 64


def vector_of(item: Item, dimension: int = DIMENSION) -> Embedding:
    """Returns a vector that depends only on the content of the item.

    Args:
        item: Text, pictures and instruction; equal items have equal vectors.
        dimension: Length D of the vector.

    Returns:
        (D,) float32, unit length.
    """
    digest = hashlib.sha256()
    texts = [
        text.encode("utf-8", "surrogatepass") for text in (item.text or "", item.instruction or "")
    ]
    for content in (*texts, *item.images):
        digest.update(len(content).to_bytes(8, "little") + content)
    generator = np.random.default_rng(int.from_bytes(digest.digest()[:8], "little"))
    vector = generator.normal(size=dimension).astype(np.float32)
    unit: Embedding = vector / np.linalg.norm(vector)
    return unit
