"""How much faster torch.compile and CUDA graphs make short texts, and how long their start takes.

Only the text tower runs, on batches of equal short texts: as it is, compiled, and compiled with
CUDA graphs (`reduce-overhead`).
"""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.gpu.step import parse_arguments, text_features
from lensemble.encoder.packing import pack

TOKENS = 32
BATCHES = (1, 8, 32)
MODES = ("default", "reduce-overhead")


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    rows = []
    for mode in (None, *MODES[: 1 if step.dry else None]):
        encoder = step.encoder()
        if mode is not None:
            tower = encoder.model.language_model
            tower.forward = torch.compile(tower.forward, mode=mode, dynamic=False)
        for batch in BATCHES[: 1 if step.dry else None]:
            item = text_features(TOKENS)
            packed = pack([item] * batch, encoder.input_spec)
            row: dict[str, object] = {"mode": mode or "eager", "batch": batch, "tokens": TOKENS}
            try:
                began = time.perf_counter()
                encoder.forward(packed)
                row["first_call_s"] = round(time.perf_counter() - began, 2)
                seconds = step.seconds(partial(encoder.forward, packed))
                row["items_per_s"] = round(batch / seconds, 1)
            except Exception as error:  # a failed compilation is part of the result
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
            if not step.dry:
                row["gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            rows.append(row)
            print(row, flush=True)
        torch.compiler.reset()
    step.save("compiled", {"rows": rows})


if __name__ == "__main__":
    main()
