"""The encoder alone: items and tokens per second by size and batch, and its use of the card."""

from __future__ import annotations

import json
from functools import partial

from benchmarks.gpu.step import Step, flop, parse_arguments, picture_features, text_features
from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch.torch_engine import TorchEngine

PICTURES = ((448, 448), (768, 1024), (1024, 1024))
TEXTS = (32, 512)
BATCHES = (1, 8, 32, 128)
# Larger batches only repeat what smaller ones show.
MAX_PATCHES = 140_000


def ceiling(step: Step) -> float | None:
    """Returns the TFLOP/s of the matrix product that `ceiling` measured; None if it has not run."""
    path = step.out / "ceiling.json"
    if not path.is_file():
        return None
    measured: float = json.loads(path.read_text())["results"]["bf16_tflop_per_s"]
    return measured


def measure(step: Step, encoder: TorchEngine) -> list[dict[str, object]]:
    """Returns one row of figures per kind of item and batch size."""
    pictures = PICTURES[:1] if step.dry else PICTURES
    batches = BATCHES[:2] if step.dry else BATCHES
    kinds = {f"{w}x{h}": picture_features(h, w, encoder) for h, w in pictures}
    kinds |= {f"text {n}": text_features(n) for n in TEXTS}
    top = ceiling(step)
    rows = []
    for kind, item in kinds.items():
        for batch in batches:
            items = [item] * batch
            if batch > 1 and sum(len(i.patches) for i in items) > MAX_PATCHES:
                continue
            packed = pack(items, encoder.input_spec)  # uploads are part of what is measured
            seconds = step.seconds(partial(encoder.forward, packed))
            tflop_per_s = flop(items, step.shape) / seconds / 1e12
            row: dict[str, object] = {
                "kind": kind,
                "batch": batch,
                "patches": len(item.patches),
                "tokens": len(item.input_ids),
                "ms": round(seconds * 1e3, 3),
                "items_per_s": round(batch / seconds, 1),
                "tokens_per_s": round(batch * len(item.input_ids) / seconds),
                "tflop_per_s": round(tflop_per_s, 2),
                "of_ceiling": round(tflop_per_s / top, 3) if top else None,
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    step.save("encoder", {"rows": measure(step, step.encoder())})


if __name__ == "__main__":
    main()
