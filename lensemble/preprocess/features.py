"""Features: what `preprocess` sends to `qwen3_vl`, and how several items share one request.

All rows of a Triton request have one shape. So `pad` fills shorter rows up, and `unpad` removes the
padding before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Rows


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one item.

    Attributes:
        input_ids: (T,) int32, token ids.
        patches: (P, 768) uint8, the patch rows of all pictures, one picture after another.
        image_grid_thw: (n, 3) int32; for each picture 1, its patch rows and its patch columns.
    """

    input_ids: NDArray[np.int32]
    patches: NDArray[np.uint8]
    image_grid_thw: NDArray[np.int32]

    def copy(self) -> Features:
        """Copies the arrays."""
        return Features(self.input_ids.copy(), self.patches.copy(), self.image_grid_thw.copy())


def pad(items: Sequence[Features]) -> Rows:
    """Makes the tensors of one request from the features of several items.

    Args:
        items: features of at least one item.

    Returns:
        `input_ids` (B, T), `patches` (B, P, 768) and `image_grid_thw` (B, n, 3), padded to the
        longest item.
    """
    if len(items) == 1:  # by far the most frequent case; needs no copy
        (item,) = items
        arrays: tuple[NDArray[Any], ...] = (item.input_ids, item.patches, item.image_grid_thw)
        return {
            tensor.name: array[None]
            for tensor, array in zip(contract.FEATURES, arrays, strict=True)
        }
    max_tokens = max(len(item.input_ids) for item in items)
    max_patches = max(len(item.patches) for item in items)
    max_images = max(len(item.image_grid_thw) for item in items)
    ids = np.full((len(items), max_tokens), contract.PAD_ID, np.int32)
    patches = np.zeros((len(items), max_patches, contract.PATCH_VALUES), np.uint8)
    grids = np.zeros((len(items), max_images, 3), np.int32)
    for row, item in enumerate(items):
        ids[row, : len(item.input_ids)] = item.input_ids
        patches[row, : len(item.patches)] = item.patches
        grids[row, : len(item.image_grid_thw)] = item.image_grid_thw
    return {
        contract.INPUT_IDS.name: ids,
        contract.PATCHES.name: patches,
        contract.IMAGE_GRID_THW.name: grids,
    }


def unpad(rows: Mapping[str, NDArray[Any]]) -> list[Features | LensembleError]:
    """Takes the items of one request apart and removes their padding.

    Args:
        rows: the tensors of B items, as `pad` returns them.

    Returns:
        For each of the B items its features, or an error if ids, grid and patches disagree.
    """
    ids, patches, grids = (rows[tensor.name] for tensor in contract.FEATURES)
    return [_unpad_row(*row) for row in zip(ids, patches, grids, strict=True)]


def _unpad_row(
    ids: NDArray[Any], patches: NDArray[Any], grid: NDArray[Any]
) -> Features | LensembleError:
    is_token = ids != contract.PAD_ID
    token_count = int(np.count_nonzero(is_token))
    if not token_count or not is_token[:token_count].all():
        return InvalidInputError(
            f"expected token ids, then only {contract.PAD_ID}", field=contract.INPUT_IDS.name
        )
    grid = grid[grid.any(axis=1)].astype(np.int64)
    # Check each number by itself first: a product of three huge numbers could overflow to a
    # plausible value.
    out_of_range = (grid < 1).any() or (grid > len(patches)).any()
    if out_of_range or (patch_count := int(grid.prod(axis=1).sum())) > len(patches):
        return InvalidInputError(
            f"{grid.tolist()} does not fit the {len(patches)} patches that were sent",
            field=contract.IMAGE_GRID_THW.name,
        )
    return Features(ids[:token_count], patches[:patch_count], grid.astype(np.int32))
