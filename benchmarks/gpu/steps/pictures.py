"""Writes the sets of different texts and pictures that `peers` and `served` send."""

from __future__ import annotations

import time

from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.item_sets import write_sets

# More than the callers have under way at once, so that no two send the same item.
COUNT, _DRY_COUNT = 256, 24


def write(step: Step) -> dict[str, object]:
    """Writes the sets, and returns the seconds."""
    began = time.perf_counter()
    count = _DRY_COUNT if step.dry else COUNT
    write_sets(step.bundle / "photos", step.work / "items", count)
    return {"seconds": round(time.perf_counter() - began, 2), "items": count}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "pictures")
    step.measure(lambda: write(step), what="sets")
    step.finish()


if __name__ == "__main__":
    main()
