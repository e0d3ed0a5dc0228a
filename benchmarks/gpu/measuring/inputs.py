"""Features of texts and pictures by their sizes, made without preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.encoder.sizing import PROMPT_TOKENS, FlopCount
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.pytorch.upload import pinned_rows
from lensemble.preprocess.features import Features
from lensemble_contract import contract
from lensemble_export.model_shapes import SHAPES

_PATCH_SIDE = 16
# Ids below this are ordinary tokens in the vocabulary of every random checkpoint.
_ORDINARY_IDS = 8000
_TOKENS_BEFORE_PICTURE = 14


def text_features(tokens: int, seed: int = 0) -> Features:
    """Makes the features of a text.

    Args:
        tokens: Number of tokens, those of the prompt included.
        seed: Seed of the token ids.
    """
    ids = np.random.default_rng(seed).integers(0, _ORDINARY_IDS, tokens, dtype=np.int32)
    return Features(ids, np.empty((0, contract.PATCH_VALUES), np.uint8), np.empty((0, 3), np.int32))


def picture_features(height: int, width: int, spec: InputSpec, seed: int = 0) -> Features:
    """Makes the features of a picture without text.

    Args:
        height: Height in pixels, a multiple of 32.
        width: Width in pixels, a multiple of 32.
        spec: Input specification of the model.
        seed: Seed of the pixels.
    """
    rng = np.random.default_rng(seed)
    rows, columns = height // _PATCH_SIDE, width // _PATCH_SIDE
    image_ids = np.full(rows * columns // spec.merge_size**2, spec.image_token_id, np.int32)
    prompt = rng.integers(0, _ORDINARY_IDS, PROMPT_TOKENS, dtype=np.int32)
    before, after = np.split(prompt, [_TOKENS_BEFORE_PICTURE])
    return Features(
        np.concatenate([before, image_ids, after]),
        rng.integers(0, 256, (rows * columns, contract.PATCH_VALUES), dtype=np.uint8),
        np.array([[1, rows, columns]], np.int32),
    )


def mixed_features(count: int, spec: InputSpec, largest: int = 1024) -> list[Features]:
    """Makes half texts of 5 to 200 tokens, half pictures of 128 pixels a side and more.

    Args:
        count: Number of items.
        spec: Input specification of the model.
        largest: Largest side of a picture in pixels, a multiple of 32.
    """
    rng = np.random.default_rng(1)
    items = []
    for n in range(count):
        if n % 2:
            height, width = (int(side) * 32 for side in rng.integers(4, largest // 32 + 1, 2))
            items.append(picture_features(height, width, spec, n))
        else:
            items.append(text_features(int(rng.integers(5, 201)), n))
    return items


def packed_for(encoder: TorchEngine, items: Sequence[Features]) -> PackedBatch:
    """Packs items as the encoder does for its device: on a GPU, patches are in pinned memory."""
    if encoder.device.type == "cuda":
        return pack(items, encoder.input_spec, pinned_rows)
    return pack(items, encoder.input_spec)


def flop(items: Sequence[Features], shape: str) -> float:
    """Returns the floating-point operations of a pass; a multiply-add counts as two.

    Args:
        items: Features of the items.
        shape: Name of the model's shape.
    """
    count = FlopCount(SHAPES[shape]["text"], SHAPES[shape]["vision"])
    return sum(
        count.of_tokens(len(item.input_ids))
        + sum(count.of_patches(int(h) * int(w)) for _, h, w in item.image_grid_thw)
        for item in items
    )
