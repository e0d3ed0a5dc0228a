"""Which precision the weights are held in, and whether a CPU's bf16 may be trusted with them.

GPUs compute in bf16. CPUs with bf16 instructions (AVX512-BF16, AMX, Arm BF16) do so about twice as
fast as in fp32; there it is taken only where this very checkpoint gives the same vectors in both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.features import Features
from lensemble.packing import Geometry
from lensemble_client import contract

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999
"""Between the vectors of `probe` in bf16 and in fp32; below it a CPU stays with fp32."""

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


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
    return (torch.bfloat16, torch.float32) if cpu_has_bf16() else (torch.float32,)


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bf16 in hardware; False where that cannot be told."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Feat")))
    return bool(_BF16_FLAGS & set(next(flags, [])))


def agree(
    encode: Callable[[Sequence[Features]], Sequence[NDArray[np.float32]]],
    reference: Callable[[Sequence[Features]], Sequence[NDArray[np.float32]]],
    geometry: Geometry,
) -> bool:
    """Whether two encoders of one checkpoint give the same vectors on `probe`.

    Args:
        encode: Features in, unit vectors (D,) out, without those that are not finite.
        reference: The same in fp32.
        geometry: Numbers of the model.
    """
    items = probe(geometry)
    found, expected = encode(items), reference(items)
    if len(found) != len(expected):
        logger.warning("in bf16 a vector is not finite on this CPU")
        return False
    least = min(float(one @ other) for one, other in zip(found, expected, strict=True))
    logger.info("bf16 against fp32 on this CPU: cosine at least %.6f", least)
    return least >= MIN_COSINE


def probe(geometry: Geometry) -> list[Features]:
    """A short text, a long one, and a picture: random ids and pixels, the same every time."""
    rng = np.random.default_rng(0)
    texts = [_ids(rng, length, geometry) for length in (12, 300)]
    side = 8 * geometry.merge_size
    places = np.full(side * side // geometry.merge_size**2, geometry.image_token_id, np.int32)
    # Smooth pixels with noise: what pictures are like.
    ramp = np.linspace(0, 200, side * side)[:, None] + rng.normal(0, 20, (1, 768))
    patches = (ramp + rng.normal(0, 12, ramp.shape)).clip(0, 255).astype(np.uint8)
    ids = np.concatenate([_ids(rng, 8, geometry), places, _ids(rng, 8, geometry)])
    no_patches = np.empty((0, contract.PATCH_VALUES), np.uint8)
    return [
        *(Features(text, no_patches, np.empty((0, 3), np.int32)) for text in texts),
        Features(ids, patches, np.array([[1, side, side]], np.int32)),
    ]


def _ids(rng: np.random.Generator, length: int, geometry: Geometry) -> NDArray[np.int32]:
    ids = rng.integers(0, geometry.vocab_size, length, dtype=np.int32)
    ids[ids == geometry.image_token_id] = 0
    return ids
