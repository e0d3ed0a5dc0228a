"""What fewer and cheaper kernels bring, and whether the vectors stay the same.

The first rows are the encoder as it is served. Each variant then runs the same passes; its first
call, which compiles or captures, is timed apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.measuring.comparison import smallest_cosine
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.inputs import packed_for, picture_features, text_features
from benchmarks.gpu.measuring.variants import attention_by, compiled, graph_of, pass_of
from lensemble.encoder.packing import PackedBatch
from lensemble.encoder.pytorch.text_layer import TextLayer
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.pytorch.varlen_kernels import flash_forward, varlen_attn
from lensemble.encoder.pytorch.vision_layers import VisionBlock
from lensemble.vectors import Vector

# Kind, size, and number of items of each pass. Different batch sizes of one kind stand side by
# side, because a compiled layer must take all of them without compiling again.
PASSES = (
    ("picture", 448, 1),
    ("picture", 448, 41),
    ("picture", 1024, 8),
    ("text", 32, 1),
    ("text", 32, 8),
    ("text", 32, 32),
    ("text", 512, 32),
)
_DRY_PASSES = (("picture", 128, 2), ("text", 32, 1), ("text", 32, 4))
# Passes that are short enough for their launches to count.
_LONGEST_GRAPH = 32 * 32

Pass = tuple[str, int, int]
MakeRun = Callable[[TorchEngine, PackedBatch], Callable[[], torch.Tensor]]


class VariantRows:
    """Runs the same passes in several ways and compares their vectors.

    Args:
        step: The step, to which rows are added.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._expected: dict[Pass, Vector] = {}

    def add(
        self,
        variant: str,
        encoder: TorchEngine,
        *,
        kinds: tuple[str, ...] = ("picture", "text"),
        context: AbstractContextManager[None] | None = None,
        make: MakeRun = pass_of,
        longest: int | None = None,
    ) -> None:
        """Adds a row for each pass.

        Args:
            variant: Name of the variant.
            encoder: The encoder.
            kinds: Kinds of items to which the variant applies.
            context: Entered around all passes.
            make: Makes the function that runs a pass.
            longest: Largest number of tokens of a pass; None is no limit.
        """
        with context or nullcontext():
            for kind, size, batch in _DRY_PASSES if self._step.dry else PASSES:
                if kind in kinds and (longest is None or size * batch <= longest):
                    self._step.measure(
                        partial(self._row, encoder, (kind, size, batch), make),
                        variant=variant,
                        kind=kind,
                        size=size,
                        batch=batch,
                    )

    def _row(self, encoder: TorchEngine, one: Pass, make: MakeRun) -> dict[str, Any]:
        kind, size, batch = one
        spec = encoder.input_spec
        items = [
            picture_features(size, size, spec, n) if kind == "picture" else text_features(size, n)
            for n in range(batch)
        ]
        began = time.perf_counter()
        run = make(encoder, packed_for(encoder, items))
        vectors = run().cpu().numpy()
        first_s = time.perf_counter() - began
        seconds = self._step.seconds(run)
        return {
            "ms": round(seconds * 1e3, 3),
            "items_per_s": round(batch / seconds, 1),
            "first_s": round(first_s, 2),
            "min_cosine": smallest_cosine(vectors, self._expected.setdefault(one, vectors)),
        }


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "variants")
    rows = VariantRows(step)
    encoder = step.encoder()
    rows.add("served", encoder)
    rows.add("graph", encoder, kinds=("text",), make=graph_of, longest=_LONGEST_GRAPH)
    for kernel in (varlen_attn, flash_forward):
        if not step.dry:  # a CPU has neither
            rows.add(kernel.__name__, encoder, context=attention_by(encoder, kernel))
    del encoder
    rows.add("kernels on", step.encoder(gpu_kernels="on"))
    plain = step.encoder(gpu_kernels="off")
    rows.add("kernels off", plain)
    # Compiling for a CPU says nothing about a GPU, and takes minutes.
    backend = "eager" if step.dry else "inductor"
    for kind, layer in (("picture", VisionBlock), ("text", TextLayer)):
        name = f"{layer.__name__} compiled"
        rows.add(name, plain, kinds=(kind,), context=compiled(layer, backend))
    step.finish()


if __name__ == "__main__":
    main()
