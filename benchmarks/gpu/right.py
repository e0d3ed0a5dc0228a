"""Is it right? Packed encoding on the device against the unpacked reference in fp32.

Cosine per item in bf16 and fp32; how far an item's vector moves when others stand beside it, and
how far it moves when the boundaries are lost (it must be seen); how often a forward pass makes the
CPU wait for the device.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.step import arguments, mixed_features
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.packing import Packed, pack
from lensemble.encoder.pytorch.torch_engine import Encoder
from lensemble.preprocess.features import Features
from lensemble_export.onnx.reference import Reference


def moved(encoder: Encoder, items: list[Features], damage: bool) -> float:
    """Largest change of a component between an item alone and among the others."""
    alone = [encoder.forward(pack([item], encoder.geometry)) for item in items]
    packed = pack(items, encoder.geometry)
    together = encoder.forward(_one_picture(packed) if damage else packed)
    return float((torch.cat(alone) - together).abs().max())


def _one_picture(packed: Packed) -> Packed:
    """All pictures in one segment: a leak in the vision tower."""
    patches = len(packed.patches)
    return replace(
        packed, vision_cu_seqlens=packed.vision_cu_seqlens[[0, -1]], vision_max_seqlen=patches
    )


def waits(encoder: Encoder, items: list[Features]) -> list[str]:
    """Where a forward pass waits for the device, as PyTorch reports it; empty on CPUs."""
    packed = pack(items, encoder.geometry)
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
    step = arguments(__doc__)
    encoder = step.encoder("bf16")
    items = mixed_features(12 if step.dry else 24, encoder, 256 if step.dry else 1024)
    checkpoint = Checkpoint.open(step.checkpoint())
    expected = Reference(checkpoint.folder, checkpoint.profile, step.device).vectors(items)
    in_bf16 = encoder.vectors(items)
    results: dict[str, Any] = {
        "items": len(items),
        "bf16_min_cosine": float((in_bf16 * expected).sum(axis=1).min()),
        "bf16_moved": moved(encoder, items[:12], damage=False),
        "bf16_moved_by_a_leak": moved(encoder, items[:12], damage=True),
        "waits": waits(encoder, items),
    }
    del encoder
    exact = step.encoder("fp32")
    in_fp32 = exact.vectors(items)
    results |= {
        "fp32_min_cosine": float((in_fp32 * expected).sum(axis=1).min()),
        "fp32_moved": moved(exact, items[:12], damage=False),
        "fp32_moved_by_a_leak": moved(exact, items[:12], damage=True),
    }
    step.save("right", results)
    if results["bf16_min_cosine"] < 0.999 or results["fp32_min_cosine"] < 0.99999:
        raise SystemExit("the vectors are not those of the reference")


if __name__ == "__main__":
    main()
