"""Draws random weights of the measured shape on the device, and writes them once."""

from __future__ import annotations

import time

from benchmarks.gpu.measuring.context import Step, parse_arguments
from lensemble_export.random_checkpoint import write_random_checkpoint


def draw(step: Step) -> dict[str, object]:
    """Writes the checkpoint in Hugging Face's layout, and returns seconds and size."""
    folder = step.work / f"{step.shape}-source"
    if (folder / "model.safetensors.index.json").is_file():
        return {"there_already": True}
    began = time.perf_counter()
    write_random_checkpoint(folder, step.shape, device=step.device.type)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"seconds": round(time.perf_counter() - began, 2), "gb": round(size / 1e9, 3)}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "weights")
    step.measure(lambda: draw(step), shape=step.shape)
    step.finish()


if __name__ == "__main__":
    main()
