"""Chooses the precision of the weights: bf16 or fp32.

GPUs compute in bf16. Among CPUs with bf16 instructions, some are twice as fast in bf16 as in fp32
and others half as fast, so a matrix product is timed. Where bf16 is faster, it is used only if this
checkpoint gives the same vectors in both precisions.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence

import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.synthetic_items import synthetic_mix
from lensemble.preprocess.features import Features
from lensemble.vectors import Vector
from lensemble_contract.errors import LensembleError

logger = logging.getLogger(__name__)

# Smallest cosine between the vectors of two encoders of one checkpoint, on `synthetic_mix`, at
# which the faster one may replace the trusted one.
MIN_COSINE = 0.999

# On a CPU, bf16 is tried if its speed is at least this many times that of fp32; docs/decisions.md
# has the measurements.
MIN_GAIN = 1.25

_PRODUCT_SHAPE = (512, 1024, 1024)  # rows, inner dimension, columns
_ROUNDS = 8


def precisions_to_try(setting: str, device: torch.device) -> tuple[torch.dtype, ...]:
    """Returns the precisions to try: the fastest first, the most trusted last.

    Args:
        setting: `fp32`, `bf16`, or `auto`.
        device: device of the weights.
    """
    if setting == "fp32":
        return (torch.float32,)
    if setting == "bf16" or device.type == "cuda":
        return (torch.bfloat16,)
    return (torch.bfloat16, torch.float32) if bf16_is_faster() else (torch.float32,)


def trusted_precision(setting: str, device: torch.device) -> torch.dtype:
    """Returns the precision for models whose vectors are not compared between precisions.

    It is the last one of `precisions_to_try`: fp32 on CPUs for `auto`, without any measurement.

    Args:
        setting: `fp32`, `bf16`, or `auto`.
        device: device of the weights.
    """
    bf16 = setting == "bf16" or (setting == "auto" and device.type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32


@functools.cache
def bf16_is_faster() -> bool:
    """Measures whether this CPU multiplies faster in bf16, with PyTorch's present threads."""
    seconds = {dtype: _fastest_product(dtype) for dtype in (torch.bfloat16, torch.float32)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    logger.info("bf16 on this CPU is %.2f times as fast as fp32", gain)
    return gain >= MIN_GAIN


def _fastest_product(dtype: torch.dtype) -> float:
    """Returns the seconds of the fastest of several products; disturbances only slow one down."""
    rows, inner, columns = _PRODUCT_SHAPE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


Encode = Callable[[Sequence[Features]], Sequence[Vector | LensembleError]]


def vectors_agree(encode: Encode, trusted: Encode, spec: InputSpec, comparison: str) -> bool:
    """Compares the vectors of two encoders of one checkpoint on synthetic items.

    Args:
        encode: encoder to test; it returns a vector (D,) of unit length, or an error, per item.
        trusted: encoder to compare with.
        spec: input specification of the model.
        comparison: description of the two for the log, such as `bf16 against fp32`.

    Returns:
        Whether all vectors are finite and every cosine is at least `MIN_COSINE`.
    """
    items = synthetic_mix(spec)
    cosines = []
    for vector, expected in zip(encode(items), trusted(items), strict=True):
        if isinstance(vector, LensembleError) or isinstance(expected, LensembleError):
            logger.warning("%s on this CPU: a vector is not finite", comparison)
            return False
        cosines.append(float(vector @ expected))
    logger.info("%s on this CPU: cosine at least %.6f", comparison, min(cosines))
    return min(cosines) >= MIN_COSINE
