"""Packs the features of several items into rows without padding, with every index the model needs.

All of this is CPU work on small integers, done before the device is used: where each item begins,
positions, and which tokens belong to pictures. So with the variable-length kernel, the CPU starts
both towers without waiting for a result from the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.positions import NO_PATCH_POSITIONS, mrope_positions, patch_positions
from lensemble.preprocess.features import Features
from lensemble_contract import contract


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch as one row of tokens and one row of patches.

    L tokens, P patches, S items, M pictures, V picture tokens.

    Attributes:
        input_ids: (1, L) int64.
        position_ids: (3, 1, L) int64, the M-RoPE positions: time, height, width. Transformers also
            takes a fourth row, in which it looks for the first token of each item. The boundaries
            say that already, and its search makes the CPU wait for the device.
        cu_seqlens: (S + 1,) int32, the first token of each item, and L. Tokens before the first
            item are the shared prefix of all items (`share_prefix`); `pack` makes none.
        max_seqlen: number of tokens of the longest item.
        visual_positions: (V,) int64, the places of picture tokens in the row.
        patches: (P, 768) uint8.
        grid_thw: (M, 3) int64.
        vision_cu_seqlens: (M + 1,) int32, the first patch of each picture, and P.
        vision_max_seqlen: number of patches of the largest picture; 0 without pictures.
        vision_position_ids: (P, 2) int64, row and column of each patch.
        interp_indices: (P, 4) int64, the entries of the vision tower's position table between which
            each patch's position is interpolated.
        interp_weights: (P, 4) float32, their weights.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    visual_positions: torch.Tensor
    patches: torch.Tensor
    grid_thw: torch.Tensor
    vision_cu_seqlens: torch.Tensor
    vision_max_seqlen: int
    vision_position_ids: torch.Tensor
    interp_indices: torch.Tensor
    interp_weights: torch.Tensor


def _pageable_rows(count: int, width: int) -> torch.Tensor:
    return torch.empty((count, width), dtype=torch.uint8)


def pack(
    items: Sequence[Features],
    spec: InputSpec,
    make_rows: Callable[[int, int], torch.Tensor] = _pageable_rows,
) -> PackedBatch:
    """Packs the features of at least one item.

    Args:
        items: features that `check_features` has accepted.
        spec: input specification of the model.
        make_rows: makes room for the patches: a uint8 tensor of the given rows and columns.
    """
    ids = np.concatenate([item.input_ids for item in items]).astype(np.int64)
    lengths = [len(item.input_ids) for item in items]
    positions = [mrope_positions(item, spec) for item in items]
    grid = torch.from_numpy(
        np.concatenate([item.image_grid_thw for item in items]).astype(np.int64)
    )
    sizes = [(h, w) for _, h, w in grid.tolist()]
    patches_per_picture = [h * w for h, w in sizes]
    # The first entry has no patches: `torch.cat` needs a tensor even if there are no pictures.
    pictures = [NO_PATCH_POSITIONS, *(patch_positions(h, w, spec) for h, w in sizes)]
    vision_position_ids, interp_indices, interp_weights = (
        torch.cat(parts) for parts in zip(*pictures, strict=True)
    )
    patches = make_rows(sum(len(item.patches) for item in items), contract.PATCH_VALUES)
    np.concatenate([item.patches for item in items], out=patches.numpy())
    return PackedBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(np.concatenate(positions, axis=1))[:, None],
        cu_seqlens=_boundaries(lengths),
        max_seqlen=max(lengths),
        visual_positions=torch.from_numpy(np.flatnonzero(ids == spec.image_token_id)),
        patches=patches,
        grid_thw=grid,
        vision_cu_seqlens=_boundaries(patches_per_picture),
        vision_max_seqlen=max(patches_per_picture, default=0),
        vision_position_ids=vision_position_ids,
        interp_indices=interp_indices,
        interp_weights=interp_weights,
    )


def _boundaries(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)], dtype=torch.int32)
