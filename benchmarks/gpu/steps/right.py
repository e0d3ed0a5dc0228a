"""Compares packed encoding in bf16 and fp32 with the unpacked reference in fp32.

It measures the cosine per item, how much an item's vector changes if others share its pass, and how
much if the boundaries between pictures are removed: such a leak must show.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.measuring.comparison import (
    exact_fp32,
    largest_change,
    smallest_cosine,
    used_kernels,
)
from benchmarks.gpu.measuring.context import parse_arguments
from benchmarks.gpu.measuring.inputs import mixed_features
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.vectors import Vector
from lensemble_export.onnx.reference import Reference

ITEMS = 12
LEAST_COSINE = {"bf16": 0.999, "fp32": 0.99999}


def compare(
    encoder: TorchEngine, items: list[Features], expected: Vector, dtype: str
) -> dict[str, Any]:
    """Returns the figures of one precision.

    Raises:
        ValueError: The cosine to the reference is too low.
    """
    cosine = smallest_cosine(encoder.vectors(items), expected)
    figures = {
        "min_cosine": cosine,
        "gpu_kernels": used_kernels(encoder),
        "moved_by_others": largest_change(encoder, items, leak=False),
        "moved_by_a_leak": largest_change(encoder, items, leak=True),
    }
    if not cosine >= LEAST_COSINE[dtype]:  # NaN is too low, too
        raise ValueError(f"{figures}; expected a cosine of at least {LEAST_COSINE[dtype]}")
    return figures


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "right")
    exact_fp32()
    checkpoint = Checkpoint.open(step.checkpoint())
    spec = InputSpec.from_folder(checkpoint.folder)
    items = mixed_features(ITEMS, spec, 256 if step.dry else 1024)
    reference = Reference(checkpoint.folder, checkpoint.profile, step.device)
    expected = reference.vectors(items)
    del reference
    for dtype in LEAST_COSINE:

        def run(dtype: str = dtype) -> dict[str, Any]:
            return compare(step.encoder(dtype=dtype), items, expected, dtype)

        step.measure(run, dtype=dtype, items=len(items))
    step.finish()


if __name__ == "__main__":
    main()
