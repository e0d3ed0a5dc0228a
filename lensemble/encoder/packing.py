"""Features of many items -> one row without padding, and every index the model needs.

All of this is CPU work on small integers, done before the device is touched: where each item
begins, M-RoPE positions, where pictures' tokens stand, how the vision tower's position table is
interpolated. The towers then run without a question back to the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLConfig
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from lensemble.preprocess.features import Features
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Geometry:
    """The numbers of a model that packing depends on.

    Attributes:
        vocab_size: Ids are below this.
        image_token_id: Stands where a picture's tokens go.
        merge_size: Patches per side of one token.
        num_grid_per_side: Side of the vision tower's learned position table.
    """

    vocab_size: int
    image_token_id: int
    merge_size: int
    num_grid_per_side: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Those of a model.

        Args:
            config: A `Qwen3VLConfig`.
        """
        vision = config.vision_config
        return cls(
            vocab_size=config.text_config.vocab_size,
            image_token_id=config.image_token_id,
            merge_size=vision.spatial_merge_size,
            num_grid_per_side=math.isqrt(vision.num_position_embeddings),
        )

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Those of the model in a folder.

        Args:
            folder: Of a checkpoint.

        Raises:
            OSError: There is no `config.json` in it.
        """
        return cls.of(
            Qwen3VLConfig.from_pretrained(folder, local_files_only=True)  # nosec B615
        )


@dataclass(frozen=True, slots=True)
class Packed:
    """Items in one row. L tokens, P patches, S items, M pictures, V picture tokens.

    Attributes:
        input_ids: (1, L) int64.
        position_ids: (4, 1, L) int64. Row 0 restarts at 0 for every item: from it Transformers
            would tell packed items apart. Rows 1 to 3 are the item's M-RoPE.
        cu_seqlens: (S + 1,) int32, where each item begins, and L. What stands before the first
            item is the beginning of every item (`share_prefix`); `pack` leaves nothing there.
        max_seqlen: Tokens of the longest item.
        visual_positions: (V,) int64, the tokens that pictures take.
        patches: (P, 768) uint8.
        grid_thw: (M, 3) int64.
        vision_cu_seqlens: (M + 1,) int32, where each picture begins, and P.
        vision_max_seqlen: Patches of the largest picture; 0 without pictures.
        vision_position_ids: (P, 2) int64, row and column of each patch.
        interp_indices: (P, 4) int64, the entries of the position table to mix.
        interp_weights: (P, 4) float32, in which parts.
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

    def to(self, device: torch.device) -> Packed:
        """This pack with every tensor on `device`; uploads overlap where memory can be pinned."""
        if device.type == "cpu":
            return self
        if int(self.cu_seqlens[0]):
            raise ValueError("a shared prefix is for CPUs: the varlen kernel knows only segments")
        uploaded: dict[str, Any] = {
            field.name: value.pin_memory().to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **uploaded)


def check(item: Features, geometry: Geometry) -> None:
    """Refuses features that would make the model fail or read beyond its tables.

    Raises:
        InvalidInputError: An id is outside the vocabulary, a grid cannot be merged, or pictures
            and their places in the text do not agree.
    """
    ids, grid = item.input_ids, item.image_grid_thw
    if ids.min() < 0 or ids.max() >= geometry.vocab_size:
        raise InvalidInputError(
            f"ids from {ids.min()} to {ids.max()}; expected 0 to {geometry.vocab_size - 1}",
            field=contract.INPUT_IDS.name,
        )
    if (grid[:, 0] != 1).any() or (grid[:, 1:] % geometry.merge_size).any():
        raise InvalidInputError(
            f"{grid.tolist()}; expected [1, h, w] with h and w multiples of {geometry.merge_size}",
            field=contract.IMAGE_GRID_THW.name,
        )
    runs = _runs(ids == geometry.image_token_id)
    wanted = _tokens_of(grid, geometry.merge_size)
    if runs != wanted:
        raise InvalidInputError(
            f"the text has picture places of {runs} tokens, the pictures take {wanted}",
            field=contract.INPUT_IDS.name,
        )


def micro_batches(items: Sequence[Features], max_tokens: int, max_patches: int) -> list[list[int]]:
    """Splits items so that each part stays within both budgets.

    Args:
        items: What to encode.
        max_tokens: Tokens in one part.
        max_patches: Patches in one part.

    Returns:
        Indices into `items`, in order; an item over a budget stands alone.
    """
    parts: list[list[int]] = []
    tokens = patches = 0
    for n, item in enumerate(items):
        tokens += len(item.input_ids)
        patches += len(item.patches)
        if not parts or tokens > max_tokens or patches > max_patches:
            parts.append([])
            tokens, patches = len(item.input_ids), len(item.patches)
        parts[-1].append(n)
    return parts


def pack(items: Sequence[Features], geometry: Geometry) -> Packed:
    """Packs items that `check` has passed.

    Args:
        items: At least one.
        geometry: Numbers of the model.
    """
    ids = np.concatenate([item.input_ids for item in items]).astype(np.int64)
    lengths = [len(item.input_ids) for item in items]
    positions = [mrope_positions(item, geometry) for item in items]
    grid = torch.from_numpy(
        np.concatenate([item.image_grid_thw for item in items]).astype(np.int64)
    )
    sizes = [(h, w) for _, h, w in grid.tolist()]
    patches_per_image = [h * w for h, w in sizes]
    places = [_places(h, w, geometry.merge_size, geometry.num_grid_per_side) for h, w in sizes]
    vision_positions, indices, weights = (
        torch.cat(parts) for parts in zip(_NOWHERE, *places, strict=True)
    )
    return Packed(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(
            np.concatenate([np.vstack([np.arange(len(p[0])), p]) for p in positions], axis=1)
        )[:, None],
        cu_seqlens=_cumulative(lengths),
        max_seqlen=max(lengths),
        visual_positions=torch.from_numpy(np.flatnonzero(ids == geometry.image_token_id)),
        patches=torch.from_numpy(np.concatenate([item.patches for item in items])),
        grid_thw=grid,
        vision_cu_seqlens=_cumulative(patches_per_image),
        vision_max_seqlen=max(patches_per_image, default=0),
        vision_position_ids=vision_positions,
        interp_indices=indices,
        interp_weights=weights,
    )


_NOWHERE = (
    torch.empty(0, 2, dtype=torch.int64),
    torch.empty(0, 4, dtype=torch.int64),
    torch.empty(0, 4),
)
"""`_places` of no picture, so that there is something to concatenate."""


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may meet what is kept
def _places(height: int, width: int, merge_size: int, side: int) -> tuple[torch.Tensor, ...]:
    """Of one picture: patches' rows and columns, entries of the position table, and in which parts.

    Kept, as pictures of one size come again and again: at most some 1 MB each.
    """
    grid = torch.tensor([[1, height, width]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=side,
        mode="bilinear",
        align_corners=True,
        spatial_merge_size=merge_size,
    )
    return get_vision_position_ids(grid, merge_size), indices, weights


def common_prefix(items: Sequence[Features], geometry: Geometry) -> int:
    """How many tokens all items begin with, no picture among them, at least one of each left over.

    Args:
        items: At least one.
        geometry: Of the model.
    """
    shortest = min(len(item.input_ids) for item in items) - 1
    rows = np.stack([item.input_ids[:shortest] for item in items])
    # Pictures of one size have the same ids, and are not the same.
    differs = (rows != rows[0]).any(axis=0) | (rows[0] == geometry.image_token_id)
    return int(np.argmax(differs)) if differs.any() else shortest


def share_prefix(packed: Packed, count: int) -> Packed:
    """The same pack with the tokens that every item begins with standing there only once.

    A token sees nothing behind itself, so those tokens' hidden states are the same in every item.
    For last-token pooling: what is shared is in no item's mean.

    Args:
        packed: As `pack` made it.
        count: How many tokens; no picture is among them.

    Raises:
        ValueError: There is one.
    """
    starts = packed.cu_seqlens[:-1].long()
    kept = torch.ones(packed.input_ids.shape[1], dtype=torch.bool)
    kept[(starts[1:, None] + torch.arange(count)).flatten()] = False
    if not kept[packed.visual_positions].all():
        raise ValueError(f"a picture is among the first {count} tokens")
    place = kept.cumsum(0) - 1
    lengths = packed.cu_seqlens.diff() - count
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0)]) + count
    return replace(
        packed,
        input_ids=packed.input_ids[:, kept],
        position_ids=packed.position_ids[:, :, kept],
        cu_seqlens=boundaries.int(),
        max_seqlen=int(lengths.max()),
        visual_positions=place[packed.visual_positions],
    )


def mrope_positions(item: Features, geometry: Geometry) -> NDArray[np.int64]:
    """Time, height and width positions of one item's tokens.

    Text advances all three by one per token. A picture of h x w tokens holds time still and counts
    rows and columns from there; what follows goes on after max(h, w). Source: Transformers
    `Qwen3VLModel.get_rope_index`.

    Returns:
        (3, T) int64.
    """
    is_image = item.input_ids == geometry.image_token_id
    parts: list[NDArray[np.int64]] = []
    position = token = 0
    for _, down, across in item.image_grid_thw.tolist():
        rows, columns = down // geometry.merge_size, across // geometry.merge_size
        before = int(np.argmax(is_image[token:]))  # text up to the picture
        parts.append(np.broadcast_to(np.arange(before) + position, (3, before)))
        position += before
        grid = np.indices((1, rows, columns)).reshape(3, -1)
        parts.append(grid + position)
        position += max(rows, columns)
        token += before + rows * columns
    rest = len(is_image) - token
    parts.append(np.broadcast_to(np.arange(rest) + position, (3, rest)))
    return np.concatenate(parts, axis=1)


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    lengths: list[int] = (edges[1::2] - edges[::2]).tolist()
    return lengths


def _tokens_of(grid: NDArray[np.int32], merge_size: int) -> list[int]:
    tokens: list[int] = (grid.astype(np.int64).prod(axis=1) // merge_size**2).tolist()
    return tokens


def _cumulative(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)], dtype=torch.int32)
