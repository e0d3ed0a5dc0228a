"""The encoder alone: items and tokens per second by size and batch, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.gpu.command.result_files import PROFILE
from benchmarks.gpu.measuring.comparison import used_kernels
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.inputs import flop, packed_for, picture_features, text_features
from benchmarks.gpu.measuring.kernel_profile import profile_passes
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features

# Kind of item, its size (side of a picture in pixels, or tokens), and numbers of items in a pass.
CASES = (
    ("picture", 448, (1, 8, 41, 128)),
    ("picture", 1024, (1, 8, 32)),
    ("text", 32, (1, 32, 512)),
    ("text", 512, (1, 32)),
)
_DRY_CASES = (("picture", 128, (1, 2)), ("text", 32, (1, 4)))
# Several passes, as a loaded server computes them.
OVERLAPPED = (("picture", 448, 41 * 5), ("text", 32, 512 * 5))
_DRY_OVERLAPPED = (("text", 32, 4),)
# What is profiled: a full micro-batch of pictures of two sizes, and one of texts.
PROFILED = (("picture", 448, 41), ("picture", 1024, 8), ("text", 32, 32))
_DRY_PROFILED = (("picture", 128, 2), ("text", 32, 4))


def make_items(encoder: TorchEngine, kind: str, size: int, batch: int) -> list[Features]:
    """Returns different items of one size."""
    spec = encoder.input_spec
    if kind == "picture":
        return [picture_features(size, size, spec, seed) for seed in range(batch)]
    return [text_features(size, seed) for seed in range(batch)]


def rate(step: Step, encoder: TorchEngine, items: list[Features]) -> Mapping[str, Any]:
    """Returns the speed of one pass over items, from packed rows in the CPU's memory."""
    packed = packed_for(encoder, items)
    seconds = step.seconds(lambda: encoder.forward(packed))
    tflop_per_s, top = flop(items, step.shape) / seconds / 1e12, step.ceiling()
    return {
        "patches": sum(len(item.patches) for item in items),
        "tokens": sum(len(item.input_ids) for item in items),
        "ms": round(seconds * 1e3, 3),
        "items_per_s": round(len(items) / seconds, 1),
        "tflop_per_s": round(tflop_per_s, 2),
        "of_ceiling": round(tflop_per_s / top, 3) if top else None,
    }


def overlapped(step: Step, encoder: TorchEngine, items: list[Features]) -> Mapping[str, Any]:
    """Returns the speed of several passes, of which the next is packed while one computes."""
    passes = encoder.statistics.sums()["passes"]
    encoder.vectors(items)
    passes = encoder.statistics.sums()["passes"] - passes
    seconds = step.seconds(lambda: encoder.vectors(items), repeats=3)
    tflop_per_s, top = flop(items, step.shape) / seconds / 1e12, step.ceiling()
    return {
        "passes": passes,
        "items_per_s": round(len(items) / seconds, 1),
        "tflop_per_s": round(tflop_per_s, 2),
        "of_ceiling": round(tflop_per_s / top, 3) if top else None,
    }


def kernels(step: Step, encoder: TorchEngine, items: list[Features], title: str) -> dict[str, Any]:
    """Profiles passes, appends the table to `profile.txt`, and returns the summary."""
    packed = packed_for(encoder, items)
    seconds = step.seconds(lambda: encoder.forward(packed))
    table, summary = profile_passes(lambda: encoder.forward(packed), step.device, seconds)
    with (step.out / PROFILE).open("a") as file:
        file.write(f"{title}\n{table}\n")
    return summary


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "encoder")
    began = time.perf_counter()
    encoder = step.encoder()
    step.note(load_s=round(time.perf_counter() - began, 2), gpu_kernels=used_kernels(encoder))
    for kind, size, batches in _DRY_CASES if step.dry else CASES:
        for batch in batches:
            items = make_items(encoder, kind, size, batch)
            step.measure(partial(rate, step, encoder, items), kind=kind, size=size, batch=batch)
    for kind, size, count in _DRY_OVERLAPPED if step.dry else OVERLAPPED:
        items = make_items(encoder, kind, size, count)
        step.measure(
            partial(overlapped, step, encoder, items), overlapped=kind, size=size, items=count
        )
    (step.out / PROFILE).unlink(missing_ok=True)  # of an earlier run
    for kind, size, batch in _DRY_PROFILED if step.dry else PROFILED:
        items = make_items(encoder, kind, size, batch)
        title = f"{batch} x {kind} of {size}, shape {step.shape}"
        step.measure(
            partial(kernels, step, encoder, items, title),
            profiled=kind,
            size=size,
            batch=batch,
        )
    step.finish()


if __name__ == "__main__":
    main()
