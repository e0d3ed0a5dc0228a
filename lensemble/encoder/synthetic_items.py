"""Synthetic items for trying an encoder: random ids and smooth pixels, always the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder.input_spec import InputSpec
from lensemble.preprocess.features import Features
from lensemble_contract import contract


def synthetic_mix(spec: InputSpec) -> list[Features]:
    """Makes a short text, a long text and a picture.

    Args:
        spec: input specification of the model.
    """
    return [*synthetic_texts((12, 300), spec), synthetic_picture(8 * spec.merge_size, spec)]


def synthetic_texts(lengths: Sequence[int], spec: InputSpec) -> list[Features]:
    """Makes one text for each length.

    Args:
        lengths: numbers of tokens.
        spec: input specification of the model.
    """
    rng = np.random.default_rng(0)
    no_patches, no_grid = np.empty((0, contract.PATCH_VALUES), np.uint8), np.empty((0, 3), np.int32)
    return [Features(_random_ids(rng, length, spec), no_patches, no_grid) for length in lengths]


def synthetic_picture(side: int, spec: InputSpec) -> Features:
    """Makes a square picture with eight tokens of text before and after it.

    Args:
        side: number of patches in a row, a multiple of `spec.merge_size`.
        spec: input specification of the model.
    """
    rng = np.random.default_rng(0)
    image_ids = np.full(side * side // spec.merge_size**2, spec.image_token_id, np.int32)
    # Real pictures are smooth with some noise.
    ramp = np.linspace(0, 200, side * side)[:, None] + rng.normal(0, 20, (1, contract.PATCH_VALUES))
    patches = (ramp + rng.normal(0, 12, ramp.shape)).clip(0, 255).astype(np.uint8)
    ids = np.concatenate([_random_ids(rng, 8, spec), image_ids, _random_ids(rng, 8, spec)])
    return Features(ids, patches, np.array([[1, side, side]], np.int32))


def _random_ids(rng: np.random.Generator, length: int, spec: InputSpec) -> NDArray[np.int32]:
    ids = rng.integers(0, spec.vocab_size, length, dtype=np.int32)
    ids[ids == spec.image_token_id] = 0
    return ids
