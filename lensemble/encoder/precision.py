"""Which precision the weights are held in, and whether a CPU's bf16 may be trusted with them.

GPUs compute in bf16. Of CPUs with bf16 instructions some are twice as fast in it as in fp32, others
half as fast, so a product is timed. Where bf16 pays, it is taken only if this very checkpoint gives
the same vectors in both.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.encoder.packing import Geometry
from lensemble.encoder.synthetic_items import probe
from lensemble.preprocess.features import Features

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999
"""Between the vectors of `probe.probe` of two ways; below it a CPU stays with the known one."""

MIN_GAIN = 1.25
"""How many times as fast as fp32 a CPU must be in bf16; docs/decisions.md has what was measured."""

_PRODUCT = (512, 1024, 1024)
_ROUNDS = 8


def candidates(wanted: str, device: torch.device) -> tuple[torch.dtype, ...]:
    """Precisions to try, best first; the last one needs no comparison.

    Args:
        wanted: `fp32`, `bf16`, or `auto`.
        device: Where the weights will lie.
    """
    if wanted == "fp32":
        return (torch.float32,)
    if wanted == "bf16" or device.type == "cuda":
        return (torch.bfloat16,)
    return (torch.bfloat16, torch.float32) if bf16_pays() else (torch.float32,)


@functools.cache
def bf16_pays() -> bool:
    """Whether this CPU, with the threads that PyTorch has now, multiplies faster in bf16."""
    seconds = {dtype: _fastest(dtype) for dtype in (torch.bfloat16, torch.float32)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    logger.info("bf16 on this CPU is %.2f times as fast as fp32", gain)
    return gain >= MIN_GAIN


def _fastest(dtype: torch.dtype) -> float:
    """Seconds of the fastest of several products: what disturbs only ever slows them down."""
    rows, inner, columns = _PRODUCT
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        torch.nn.functional.linear(left, right)
        taken.append(time.perf_counter() - began)
    return min(taken)


def agree(
    encode: Callable[[Sequence[Features]], Sequence[NDArray[np.float32]]],
    reference: Callable[[Sequence[Features]], Sequence[NDArray[np.float32]]],
    geometry: Geometry,
    what: str,
) -> bool:
    """Whether two encoders of one checkpoint give the same vectors on `probe`.

    Args:
        encode: Features in, unit vectors (D,) out, without those that are not finite.
        reference: The same, to be trusted.
        geometry: Numbers of the model.
        what: Of the two, for the log.
    """
    items = probe(geometry)
    found, expected = encode(items), reference(items)
    if len(found) != len(expected):
        logger.warning("%s on this CPU: a vector is not finite", what)
        return False
    least = min(float(one @ other) for one, other in zip(found, expected, strict=True))
    logger.info("%s on this CPU: cosine at least %.6f", what, least)
    return least >= MIN_COSINE
