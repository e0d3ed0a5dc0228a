"""Results in order and a progress bar, for `threads` and `tasks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class OrderedResults(Generic[T]):
    """Keeps each result until all earlier ones are complete."""

    def __init__(self) -> None:
        self._results: dict[int, T] = {}
        self._next = 0

    def add(self, positions: Sequence[int], results: Sequence[T]) -> list[T]:
        """Adds the results of one batch, and returns all that can be released now, in order.

        Args:
            positions: Position of each item in the caller's input, counted from 0.
            results: One result for each position.
        """
        self._results.update(zip(positions, results, strict=True))
        released = []
        while self._next in self._results:
            released.append(self._results.pop(self._next))
            self._next += 1
        return released


@contextmanager
def progress_bar(
    label: str, total: int | None, *, shown: bool
) -> Iterator[Callable[[int], object]]:
    """Shows a progress bar on standard error while the block runs.

    Args:
        label: Text in front of the bar.
        total: Number of items, if known.
        shown: Whether to show a bar at all.

    Yields:
        Function that advances the bar by a number of items.
    """
    if not shown:  # even a disabled bar of tqdm starts a monitor thread
        yield lambda _: None
        return
    with tqdm(desc=label, total=total, unit="item") as bar:
        yield bar.update
