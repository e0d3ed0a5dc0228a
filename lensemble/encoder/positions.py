"""Positions: M-RoPE positions of tokens, and positions of a picture's patches."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from lensemble.encoder.input_spec import InputSpec
from lensemble.preprocess.features import Features


def mrope_positions(item: Features, spec: InputSpec) -> NDArray[np.int64]:
    """Computes the time, height and width positions of one item's tokens.

    A text token advances all three by one. Within a picture of h x w tokens, the time position
    stays the same, and height and width count its rows and columns. The text after it continues
    max(h, w) behind the position at which the picture began.
    Source: Transformers `Qwen3VLModel.get_rope_index`.

    Args:
        item: features of the item.
        spec: input specification of the model.

    Returns:
        (3, T) int64.
    """
    is_image = item.input_ids == spec.image_token_id
    parts: list[NDArray[np.int64]] = []
    position = token = 0
    for _, patch_rows, patch_columns in item.image_grid_thw.tolist():
        rows, columns = patch_rows // spec.merge_size, patch_columns // spec.merge_size
        text_length = int(np.argmax(is_image[token:]))  # text up to the picture
        parts.append(np.broadcast_to(np.arange(text_length) + position, (3, text_length)))
        position += text_length
        grid = np.indices((1, rows, columns)).reshape(3, -1)
        parts.append(grid + position)
        position += max(rows, columns)
        token += text_length + rows * columns
    rest = len(is_image) - token
    parts.append(np.broadcast_to(np.arange(rest) + position, (3, rest)))
    return np.concatenate(parts, axis=1)


class PatchPositions(NamedTuple):
    """Positions of the patches of one picture, or of several in a row.

    Attributes:
        position_ids: (P, 2) int64, row and column of each patch.
        interp_indices: (P, 4) int64, the entries of the learned position table between which each
            patch's position is interpolated.
        interp_weights: (P, 4) float32, their weights.
    """

    position_ids: torch.Tensor
    interp_indices: torch.Tensor
    interp_weights: torch.Tensor


# Put before the positions of pictures, because `torch.cat` needs at least one tensor.
NO_PATCH_POSITIONS = PatchPositions(
    torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 4, dtype=torch.int64), torch.empty(0, 4)
)


# Cached because pictures of one size are frequent; an entry takes up to about 1 MB. Not made in
# inference mode, because training may use cached tensors.
@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def patch_positions(height: int, width: int, spec: InputSpec) -> PatchPositions:
    """Computes the positions of one picture's patches.

    Args:
        height: number of patch rows.
        width: number of patch columns.
        spec: input specification of the model.
    """
    grid = torch.tensor([[1, height, width]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=spec.num_grid_per_side,
        mode="bilinear",
        align_corners=True,
        spatial_merge_size=spec.merge_size,
    )
    return PatchPositions(get_vision_position_ids(grid, spec.merge_size), indices, weights)
