"""Packed encoding against Transformers and sentence-transformers, on ready inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu.measuring.comparison import smallest_cosine
from benchmarks.gpu.measuring.contenders import Contender, Models
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.item_sets import read_set
from lensemble.vectors import Vector
from lensemble_client import Item

SETS = {"equal": "448x448", "mixed": "mixed"}
ITEMS, _DRY_ITEMS = 64, 4
BATCHES, _DRY_BATCHES = (8, 32), (2,)
# Two vectors of one item, made by different libraries in bf16.
LEAST_COSINE = 0.99


class SetComparison:
    """Times the contenders on one set, and compares their vectors with those of the first.

    Args:
        step: The step, to which rows are added.
        name: Name of the set.
        items: Its items.
    """

    def __init__(self, step: Step, name: str, items: Sequence[Item]) -> None:
        self._step, self._name, self._items = step, name, items
        self._expected: Vector | None = None
        self.rates: dict[str, float] = {}

    def add(self, contender: str, make: Callable[[], Contender]) -> None:
        """Adds the row of a contender, or why it failed."""
        self._step.measure(
            partial(self._figures, contender, make),
            set=self._name,
            contender=contender,
            items=len(self._items),
        )

    def _figures(self, contender: str, make: Callable[[], Contender]) -> dict[str, Any]:
        run = make()
        vectors = run()
        if self._expected is None:
            self._expected = vectors
        cosine = smallest_cosine(vectors, self._expected)
        if not cosine >= LEAST_COSINE:  # NaN is too low, too
            raise ValueError(f"other vectors than packed encoding: cosine {cosine}")
        seconds = self._step.seconds(run, repeats=3, warm_up=1)
        self.rates[contender] = len(self._items) / seconds
        return {"items_per_s": round(self.rates[contender], 1), "min_cosine": cosine}


def compare(step: Step, models: Models, name: str, items: Sequence[Item]) -> None:
    """Adds a row for each contender on one set, and one with the ratio to the best peer."""
    batches = _DRY_BATCHES if step.dry else BATCHES
    comparison = SetComparison(step, name, items)
    comparison.add("packed", partial(models.packed, items))
    for batch in batches:
        comparison.add(f"padded {batch}", partial(models.padded, items, batch))
    comparison.add("single", partial(models.padded, items, 1))
    for batch in batches:
        comparison.add(f"sentence-transformers {batch}", partial(models.library, items, batch))
    peers = [rate for contender, rate in comparison.rates.items() if contender != "packed"]
    if "packed" in comparison.rates and peers:
        ratio = round(comparison.rates["packed"] / max(peers), 2)
        step.add(set=name, contender="packed over the best other", ratio=ratio)


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "peers")
    # Its wheel alone (0.33.0) has 336 MB; 64 MiB are carried to the machine.
    step.note(not_run={"vllm": "its wheel of 336 MB does not fit into what is carried along"})
    models = Models(step)
    for name, folder in SETS.items():
        items = read_set(step.work / "items" / folder)[: _DRY_ITEMS if step.dry else ITEMS]
        compare(step, models, name, items)
    step.finish()


if __name__ == "__main__":
    main()
