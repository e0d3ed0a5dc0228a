"""What fewer and cheaper kernels bring, and whether the vectors stay the same.

The first rows are the encoder as it is served. Each variant then runs the same passes; its first
call, which may compile, is timed apart.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from benchmarks.gpu.measuring.comparison import smallest_cosine
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.inputs import packed_for, picture_features, text_features
from benchmarks.gpu.measuring.variants import attention_by, compiled
from lensemble.encoder.pytorch.attention.varlen_kernels import flash_forward, varlen_attn
from lensemble.encoder.pytorch.text_layer import TextLayer
from lensemble.encoder.pytorch.torch_engine import TorchEngine
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

Pass = tuple[str, int, int]


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
    ) -> None:
        """Adds a row for each pass.

        Args:
            variant: Name of the variant.
            encoder: The encoder.
            kinds: Kinds of items to which the variant applies.
            context: Entered around all passes.
        """
        with context or nullcontext():
            for kind, size, batch in _DRY_PASSES if self._step.dry else PASSES:
                if kind in kinds:
                    self._step.measure(
                        partial(self._row, encoder, (kind, size, batch)),
                        variant=variant,
                        kind=kind,
                        size=size,
                        batch=batch,
                    )

    def _row(self, encoder: TorchEngine, one: Pass) -> dict[str, Any]:
        kind, size, batch = one
        spec = encoder.input_spec
        items = [
            picture_features(size, size, spec, n) if kind == "picture" else text_features(size, n)
            for n in range(batch)
        ]
        began = time.perf_counter()
        run = partial(encoder.forward, packed_for(encoder, items))
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
    rows.add("served", step.encoder())
    encoder = step.encoder(gpu_graphs="off")
    rows.add("no graphs", encoder)
    for kernel in (varlen_attn, flash_forward):
        if not step.dry:  # a CPU has neither
            rows.add(kernel.__name__, encoder, context=attention_by(encoder, kernel))
    del encoder
    rows.add("no graphs, kernels on", step.encoder(gpu_graphs="off", gpu_kernels="on"))
    plain = step.encoder(gpu_graphs="off", gpu_kernels="off")
    rows.add("no graphs, kernels off", plain)
    # Compiling for a CPU says nothing about a GPU, and takes minutes.
    backend = "eager" if step.dry else "inductor"
    for kind, layer in (("picture", VisionBlock), ("text", TextLayer)):
        name = f"{layer.__name__} compiled"
        rows.add(name, plain, kinds=(kind,), context=compiled(layer, backend))
    step.finish()


if __name__ == "__main__":
    main()
