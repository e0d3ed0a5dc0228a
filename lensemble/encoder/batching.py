"""Work on many items at once that must not fail as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble_contract.errors import InternalError, LensembleError, OverloadedError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Embedding = NDArray[np.float32]


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch failed for want of memory."""
    # On CPUs PyTorch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def batches(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sorts items into batches, cheap ones first; what is filled up costs as much as the longest.

    Args:
        costs: Of each item, such as its tokens.
        budget: Most that a batch may cost; an item that costs more goes alone.

    Returns:
        Indices; every item once.
    """
    batch: list[int] = []
    for n in sorted(range(len(costs)), key=costs.__getitem__):
        if batch and (len(batch) + 1) * costs[n] > budget:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


def each(
    items: Sequence[T], run: Callable[[Sequence[T]], Embedding]
) -> list[Embedding | LensembleError]:
    """The vector of each item, made together; halved and tried again if that fails.

    Args:
        items: At least one.
        run: Items -> vectors (N, D) float32.

    Returns:
        For each item its vector (D,), or its own error.
    """
    try:
        return [
            vector if np.isfinite(vector).all() else InternalError("the vector is not finite")
            for vector in run(items)
        ]
    except Exception as error:
        if len(items) == 1:
            return [_failed_alone(error)]
        logger.warning("%d items failed together, halving: %s", len(items), str(error))
    # Outside of the `except`: inside, the error would hold on to the failed pass's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(items) // 2
    return each(items[:half], run) + each(items[half:], run)


def _failed_alone(error: Exception) -> LensembleError:
    if is_out_of_memory(error):
        return OverloadedError("the item does not fit into memory, even alone; try again later")
    logger.error("an item failed alone", exc_info=error)
    return InternalError(f"encoding failed: {type(error).__name__}")
