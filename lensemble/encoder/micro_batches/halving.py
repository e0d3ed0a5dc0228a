"""Halves a micro-batch that fails.

Items that are encoded together must not fail together. So a micro-batch that fails is halved and
tried again, until only the items that caused the failure have an error.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from lensemble.memory_errors import is_out_of_memory
from lensemble.vectors import Vector
from lensemble_contract.errors import InternalError, LensembleError, OverloadedError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _too_large(_: object) -> OverloadedError:
    return OverloadedError("the item does not fit into memory, even alone; try again later")


def encode_with_halving(
    items: Sequence[T],
    encode: Callable[[Sequence[T]], Vector],
    too_large: Callable[[T], LensembleError] = _too_large,
) -> list[Vector | LensembleError]:
    """Encodes items together; if that fails, encodes each half by itself, and so on.

    Args:
        items: at least one item.
        encode: function that returns the vectors (N, D) of N items, or raises any exception.
        too_large: function that returns the error of an item that does not fit into memory alone.

    Returns:
        For each item, in order, its vector (D,) float32 or its own error.
    """
    try:
        return [
            vector if np.isfinite(vector).all() else InternalError("the vector is not finite")
            for vector in encode(items)
        ]
    except Exception as error:
        if len(items) == 1:
            if is_out_of_memory(error):
                return [too_large(items[0])]
            logger.error("an item failed alone", exc_info=error)
            return [InternalError(f"encoding failed: {type(error).__name__}")]
        logger.warning("%d items failed together, halving: %s", len(items), str(error))
    # This stands outside of the `except` block, where the exception's traceback would keep the
    # tensors of the failed pass in memory.
    # It does nothing if CUDA is not in use; after a failure of the driver, every call fails.
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()
    half = len(items) // 2
    return [
        result
        for part in (items[:half], items[half:])
        for result in encode_with_halving(part, encode, too_large)
    ]
