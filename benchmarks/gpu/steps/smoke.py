"""Whether the CUDA path is right at all, with a tiny model: attention, each kind of item, waits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measuring.attention_trials import HEADS, AttentionTrial
from benchmarks.gpu.measuring.comparison import (
    device_waits,
    exact_fp32,
    smallest_cosine,
    used_kernels,
)
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.inputs import mixed_features, picture_features, text_features
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.pytorch.attention.varlen_kernels import (
    attend_with_sdpa,
    flash_forward,
    varlen_attn,
)
from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.onnx.reference import Reference
from lensemble_export.random_checkpoint import write_random_checkpoint

LEAST_COSINE = 0.999


def tiny_checkpoint(work: Path) -> Checkpoint:
    """Returns the serving checkpoint of the tiny shape, which is made if it is missing."""
    folder = work / "smoke"
    if not (folder / "profile.json").is_file():
        write_random_checkpoint(work / "smoke-source", "tiny")
        convert_checkpoint(str(work / "smoke-source"), folder)
    return Checkpoint.open(folder)


def attention(step: Step) -> None:
    """Adds a row for each kernel, size of a head, and direction."""
    dtype = torch.float32 if step.dry else torch.bfloat16
    for head_dim, query_heads, key_heads in HEADS:
        trial = AttentionTrial(head_dim, query_heads, key_heads, step.device, dtype)
        for kernel in (attend_with_sdpa,) if step.dry else (varlen_attn, flash_forward):
            for causal in (False, True):
                step.measure(
                    partial(trial.error, kernel, causal),
                    attention=kernel.__name__,
                    head_dim=head_dim,
                    heads=f"{query_heads}/{key_heads}",
                    causal=causal,
                )


def waits(encoder: TorchEngine, items: list[Features]) -> dict[str, Any]:
    """Returns the lines at which a pass waits for the device."""
    return {"waits": device_waits(encoder, items)}


def cosine(encoder: TorchEngine, items: list[Features], reference: Reference) -> dict[str, Any]:
    """Returns the smallest cosine to the reference.

    Raises:
        ValueError: It is too low.
    """
    found = smallest_cosine(encoder.vectors(items), reference.vectors(items))
    if not found >= LEAST_COSINE:  # NaN is too low, too
        raise ValueError(f"cosine {found}; expected at least {LEAST_COSINE}")
    return {"min_cosine": found}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "smoke")
    exact_fp32()
    attention(step)
    checkpoint = tiny_checkpoint(step.work)
    spec = InputSpec.from_folder(checkpoint.folder)
    sets = {
        "text": [text_features(tokens, tokens) for tokens in (5, 32, 200)],
        "picture": [picture_features(128, side, spec, side) for side in (128, 256)],
        "mixed": mixed_features(8, spec, 256),
    }
    reference = Reference(checkpoint.folder, checkpoint.profile, "cpu")
    settings = Settings(checkpoint=checkpoint.folder, dtype="fp32" if step.dry else "bf16")
    settings = settings.with_changes(device=step.device.type)
    for kernels in ("off", "on"):
        encoder = load_torch_engine(
            checkpoint, settings.with_changes(gpu_kernels=kernels), str(step.device)
        )
        labels = {"kernels": kernels, "used": used_kernels(encoder)}
        for name, items in sets.items():
            step.measure(partial(cosine, encoder, items, reference), items=name, **labels)
            step.measure(partial(waits, encoder, items), waits_in=name, **labels)
        step.measure(encoder.warm_up, warm_up="all kinds", **labels)
        # From the warm-up on, short texts run as CUDA graphs.
        texts = sets["text"]
        step.measure(partial(cosine, encoder, texts, reference), items="warm text", **labels)
    step.finish()


if __name__ == "__main__":
    main()
