"""What passes from `preprocess` to `qwen3_vl`, and how several items share one request.

Rows of one request have one shape, so shorter rows are filled up; `unfill` takes the filling off
again, and nothing filled up is ever computed.
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
    """One item, ready for the encoder.

    Attributes:
        input_ids: (T,) int32.
        patches: (P, 768) uint8, the patch rows of all pictures, one after the other.
        image_grid_thw: (n, 3) int32; per picture 1, patches down, patches across.
    """

    input_ids: NDArray[np.int32]
    patches: NDArray[np.uint8]
    image_grid_thw: NDArray[np.int32]

    def copy(self) -> Features:
        """The same in memory of its own."""
        return Features(self.input_ids.copy(), self.patches.copy(), self.image_grid_thw.copy())


def fill(items: Sequence[Features]) -> Rows:
    """Lays items out as the tensors of one request.

    Args:
        items: At least one.

    Returns:
        `input_ids` (B, T), `patches` (B, P, 768) and `image_grid_thw` (B, n, 3), each as long as
        the longest item.
    """
    if len(items) == 1:  # by far the most frequent: no copy
        (item,) = items
        arrays: tuple[NDArray[Any], ...] = (item.input_ids, item.patches, item.image_grid_thw)
        return {
            tensor.name: array[None]
            for tensor, array in zip(contract.FEATURES, arrays, strict=True)
        }
    longest = max(len(item.input_ids) for item in items)
    most_patches = max(len(item.patches) for item in items)
    most_images = max(len(item.image_grid_thw) for item in items)
    ids = np.full((len(items), longest), contract.FILL_ID, np.int32)
    patches = np.zeros((len(items), most_patches, contract.PATCH_VALUES), np.uint8)
    grids = np.zeros((len(items), most_images, 3), np.int32)
    for row, item in enumerate(items):
        ids[row, : len(item.input_ids)] = item.input_ids
        patches[row, : len(item.patches)] = item.patches
        grids[row, : len(item.image_grid_thw)] = item.image_grid_thw
    return {
        contract.INPUT_IDS.name: ids,
        contract.PATCHES.name: patches,
        contract.IMAGE_GRID_THW.name: grids,
    }


def unfill(rows: Mapping[str, NDArray[Any]]) -> list[Features | LensembleError]:
    """Takes the items of one request apart, without what `fill` put in.

    Args:
        rows: As `fill` lays them out.

    Returns:
        B items, or errors where ids, grid and patches do not fit together.
    """
    ids, patches, grids = (rows[tensor.name] for tensor in contract.FEATURES)
    return [_row(*row) for row in zip(ids, patches, grids, strict=True)]


def _row(ids: NDArray[Any], patches: NDArray[Any], grid: NDArray[Any]) -> Features | LensembleError:
    real = ids != contract.FILL_ID
    count = int(np.count_nonzero(real))
    if not count or not real[:count].all():
        return InvalidInputError(
            f"expected token ids, then only {contract.FILL_ID}", field=contract.INPUT_IDS.name
        )
    grid = grid[grid.any(axis=1)].astype(np.int64)
    # Each number alone first: the product of three may wrap around to something harmless.
    outside = (grid < 1).any() or (grid > len(patches)).any()
    if outside or (wanted := int(grid.prod(axis=1).sum())) > len(patches):
        return InvalidInputError(
            f"{grid.tolist()} asks for other patches than the {len(patches)} that were sent",
            field=contract.IMAGE_GRID_THW.name,
        )
    return Features(ids[:count], patches[:wanted], grid.astype(np.int32))
