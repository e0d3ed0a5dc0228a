"""Compares packed encoding with the reference, and finds leaks and waits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measuring.inputs import packed_for
from lensemble.encoder.packing import PackedBatch
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.vectors import Vector


def exact_fp32() -> None:
    """Turns TF32 off, for matrix products and for cuDNN.

    By default cuDNN computes the reference's patch embedding, a convolution, with ten bits.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def smallest_cosine(vectors: Vector, expected: Vector) -> float:
    """Returns the smallest cosine between rows of two arrays (S, D) of unit vectors."""
    return round(float((vectors * expected).sum(axis=1).min()), 7)


def used_kernels(encoder: TorchEngine) -> dict[str, bool]:
    """Returns for each tower whether its layers use kernels in Triton's language."""
    towers: Any = encoder.model
    layers = {"text": towers.language_model.layers[0], "vision": towers.visual.blocks[0]}
    return {name: layer.operations is not None for name, layer in layers.items()}


def largest_change(encoder: TorchEngine, items: Sequence[Features], *, leak: bool) -> float:
    """Returns the largest change of a component between an item alone and among the others.

    Args:
        encoder: The encoder to check.
        items: Items that share a pass.
        leak: Whether to remove the boundaries between pictures in the shared pass.
    """
    alone = [encoder.forward(packed_for(encoder, [item])) for item in items]
    packed = packed_for(encoder, items)
    together = encoder.forward(_without_boundaries(packed) if leak else packed)
    return float((torch.cat(alone) - together).abs().max())


def _without_boundaries(packed: PackedBatch) -> PackedBatch:
    """Puts all pictures into one segment, which makes the vision tower leak."""
    patches = len(packed.patches)
    return replace(
        packed, vision_cu_seqlens=packed.vision_cu_seqlens[[0, -1]], vision_max_seqlen=patches
    )


def device_waits(encoder: TorchEngine, items: Sequence[Features]) -> list[str]:
    """Returns the lines at which a pass waits for the device; empty on CPUs."""
    packed = packed_for(encoder, items)
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
    return [
        "/".join([*Path(w.filename).parts[-3:-1], f"{Path(w.filename).name}:{w.lineno}"])
        for w in caught
        if "synchroniz" in str(w.message)
    ]
