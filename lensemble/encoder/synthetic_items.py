"""Made-up items that try out an encoder: random ids and smooth pixels, the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder.packing import Geometry
from lensemble.preprocess.features import Features
from lensemble_contract import contract


def probe(geometry: Geometry) -> list[Features]:
    """A short text, a long one, and a picture.

    Args:
        geometry: Numbers of the model.
    """
    return [*texts((12, 300), geometry), picture(8 * geometry.merge_size, geometry)]


def texts(lengths: Sequence[int], geometry: Geometry) -> list[Features]:
    """Texts of so many tokens.

    Args:
        lengths: Of each text.
        geometry: Numbers of the model.
    """
    rng = np.random.default_rng(0)
    no_patches, no_grid = np.empty((0, contract.PATCH_VALUES), np.uint8), np.empty((0, 3), np.int32)
    return [Features(_ids(rng, length, geometry), no_patches, no_grid) for length in lengths]


def picture(side: int, geometry: Geometry) -> Features:
    """A square picture between a few words.

    Args:
        side: Patches in a row, a multiple of `geometry.merge_size`.
        geometry: Numbers of the model.
    """
    rng = np.random.default_rng(0)
    places = np.full(side * side // geometry.merge_size**2, geometry.image_token_id, np.int32)
    # Smooth pixels with noise: what pictures are like.
    ramp = np.linspace(0, 200, side * side)[:, None] + rng.normal(0, 20, (1, contract.PATCH_VALUES))
    patches = (ramp + rng.normal(0, 12, ramp.shape)).clip(0, 255).astype(np.uint8)
    ids = np.concatenate([_ids(rng, 8, geometry), places, _ids(rng, 8, geometry)])
    return Features(ids, patches, np.array([[1, side, side]], np.int32))


def _ids(rng: np.random.Generator, length: int, geometry: Geometry) -> NDArray[np.int32]:
    ids = rng.integers(0, geometry.vocab_size, length, dtype=np.int32)
    ids[ids == geometry.image_token_id] = 0
    return ids
