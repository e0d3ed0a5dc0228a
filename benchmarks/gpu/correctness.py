"""Compares packed encoding on the device with the unpacked reference in fp32.

It measures the cosine of each item in bf16 and fp32, how much an item's vector changes if others
share its pass, how much it changes if the boundaries between pictures are removed (this leak shows
that the measurement would find one), and the lines at which a forward pass makes the CPU wait for
the device.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.step import mixed_features, parse_arguments
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble_export.onnx.reference import Reference


def largest_change(encoder: TorchEngine, items: list[Features], leak: bool) -> float:
    """Encodes each item alone and all items in one pass; returns the largest change of a component.

    Args:
        encoder: Encoder to check.
        items: Items to encode.
        leak: Whether to remove the boundaries between pictures in the shared pass.
    """
    alone = [encoder.forward(pack([item], encoder.input_spec)) for item in items]
    packed = pack(items, encoder.input_spec)
    together = encoder.forward(_without_boundaries(packed) if leak else packed)
    return float((torch.cat(alone) - together).abs().max())


def _without_boundaries(packed: PackedBatch) -> PackedBatch:
    """Puts all pictures into one segment, which makes the vision tower leak."""
    patches = len(packed.patches)
    return replace(
        packed, vision_cu_seqlens=packed.vision_cu_seqlens[[0, -1]], vision_max_seqlen=patches
    )


def device_waits(encoder: TorchEngine, items: list[Features]) -> list[str]:
    """Returns the lines at which a forward pass waits for the device; empty on CPUs."""
    packed = pack(items, encoder.input_spec)
    encoder.forward(packed)
    if encoder.device.type == "cpu":
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder.forward(packed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    encoder = step.encoder("bf16")
    items = mixed_features(12 if step.dry else 24, encoder, 256 if step.dry else 1024)
    checkpoint = Checkpoint.open(step.checkpoint())
    expected = Reference(checkpoint.folder, checkpoint.profile, step.device).vectors(items)
    in_bf16 = encoder.vectors(items)
    results: dict[str, Any] = {
        "items": len(items),
        "bf16_min_cosine": float((in_bf16 * expected).sum(axis=1).min()),
        "bf16_moved": largest_change(encoder, items[:12], leak=False),
        "bf16_moved_by_a_leak": largest_change(encoder, items[:12], leak=True),
        "waits": device_waits(encoder, items),
    }
    del encoder  # frees its memory before the next one is loaded
    encoder = step.encoder("fp32")
    in_fp32 = encoder.vectors(items)
    results |= {
        "fp32_min_cosine": float((in_fp32 * expected).sum(axis=1).min()),
        "fp32_moved": largest_change(encoder, items[:12], leak=False),
        "fp32_moved_by_a_leak": largest_change(encoder, items[:12], leak=True),
    }
    step.save("correctness", results)
    if results["bf16_min_cosine"] < 0.999 or results["fp32_min_cosine"] < 0.99999:
        raise SystemExit(
            "the cosine to the reference is too low; expected at least 0.999 in bf16 and 0.99999 "
            "in fp32"
        )


if __name__ == "__main__":
    main()
