"""What was written after the snapshot: in memory, searched exactly, gone at the next snapshot."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact import ScoredRows, nearest

Scalar = TypeVar("Scalar", bound=np.generic)

_FIRST_BYTES = 64 * 1024 * 1024
"""Of vectors that there is room for at once; memory is taken only where something was written, and
growing would copy all while a search waits."""


class Delta:
    """Rows with their vectors, in no order.

    Args:
        dimension: Of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self._vectors = np.empty((0, dimension), np.float32)
        self._rows = np.empty(0, np.int64)
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, row: int) -> bool:
        return row in self._place

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) int64; a view that the next change makes wrong."""
        return self._rows[: len(self)]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) float32, in the order of `rows`; a view that the next change makes wrong."""
        return self._vectors[: len(self)]

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds rows that are not there yet.

        Args:
            rows: (N,) int64.
            vectors: (N, D) float32.
        """
        start, end = len(self), len(self) + len(rows)
        if end > len(self._rows):
            first = _FIRST_BYTES // (4 * self._vectors.shape[1])
            capacity = max(first, end, 2 * len(self._rows))
            self._vectors = _grown(self._vectors, capacity)
            self._rows = _grown(self._rows, capacity)
        self._vectors[start:end] = vectors
        self._rows[start:end] = rows
        self._place.update(zip(rows.tolist(), range(start, end), strict=True))

    def remove(self, row: int) -> None:
        """Removes a row that is there; the last one takes its place."""
        last = len(self) - 1
        at = self._place.pop(row)
        if at != last:
            self._vectors[at], self._rows[at] = self._vectors[last], self._rows[last]
            self._place[int(self._rows[at])] = at

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> ScoredRows:
        """The nearest rows.

        Args:
            queries: (B, D) float32.
            k: How many at most.
            allowed: (N,) bool in the order of `rows`; None allows all.
        """
        rows, vectors = self.rows, self.vectors
        if allowed is not None:
            rows, vectors = rows[allowed], vectors[allowed]
        return nearest(queries, rows, vectors, k)


def _grown(array: NDArray[Scalar], capacity: int) -> NDArray[Scalar]:
    grown = np.empty((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
