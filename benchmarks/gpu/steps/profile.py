"""Makes the serving checkpoint of the drawn weights, which hashes all of them."""

from __future__ import annotations

import time

from benchmarks.gpu.measuring.context import Step, parse_arguments
from lensemble_export.convert_checkpoint import convert_checkpoint


def convert(step: Step) -> dict[str, object]:
    """Writes the serving checkpoint, and returns the seconds."""
    if (step.checkpoint() / "profile.json").is_file():
        return {"there_already": True}
    began = time.perf_counter()
    convert_checkpoint(str(step.work / f"{step.shape}-source"), step.checkpoint())
    return {"seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "profile")
    step.measure(lambda: convert(step), shape=step.shape)
    step.finish()


if __name__ == "__main__":
    main()
