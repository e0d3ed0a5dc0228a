"""The card's own limits: matrix products of the towers' shapes, a copy, and an upload."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from benchmarks.gpu.measuring.context import Step, parse_arguments

# Rows, inner size and columns of a product: a large square, then layers of the 2B shape in a full
# micro-batch (vision, up; text, gate or up).
PRODUCTS = ((8192, 8192, 8192), (32_768, 1024, 4096), (16_384, 2048, 6144))
_DRY_PRODUCTS = ((256, 256, 256),)
_COPY_BYTES, _UPLOAD_BYTES, _DRY_BYTES = 4 << 30, 256 << 20, 4 << 20


def product(step: Step, rows: int, inner: int, columns: int) -> Mapping[str, float]:
    """Returns the TFLOP/s of a bf16 product of random matrices; one of zeros runs faster."""
    left = torch.randn(rows, inner, device=step.device, dtype=torch.bfloat16)
    right = torch.randn(inner, columns, device=step.device, dtype=torch.bfloat16)
    times = 1 if step.dry else 10
    seconds = step.seconds(lambda: [left @ right for _ in range(times)]) / times
    return {"tflop_per_s": round(2 * rows * inner * columns / seconds / 1e12, 2)}


def copy(step: Step) -> Mapping[str, float]:
    """Returns the GB/s, read and written, of a copy within the device's memory."""
    count = (_DRY_BYTES if step.dry else _COPY_BYTES) // 4
    source = torch.randn(count, device=step.device)
    target = torch.empty_like(source)
    seconds = step.seconds(lambda: target.copy_(source))
    return {"gb_per_s": round(2 * source.nbytes / seconds / 1e9, 1)}


def upload(step: Step) -> Mapping[str, float]:
    """Returns the GB/s of an upload from pinned memory."""
    source = torch.randint(256, (_DRY_BYTES if step.dry else _UPLOAD_BYTES,), dtype=torch.uint8)
    source = source if step.dry else source.pin_memory()
    target = torch.empty(len(source), dtype=torch.uint8, device=step.device)
    seconds = step.seconds(lambda: target.copy_(source, non_blocking=True))
    return {"gb_per_s": round(source.nbytes / seconds / 1e9, 2)}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "ceiling")
    for size in _DRY_PRODUCTS if step.dry else PRODUCTS:
        step.measure(partial(product, step, *size), what="x".join(map(str, size)))
    step.measure(partial(copy, step), what="copy")
    step.measure(partial(upload, step), what="pinned upload")
    step.finish()


if __name__ == "__main__":
    main()
