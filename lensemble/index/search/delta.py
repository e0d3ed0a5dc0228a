"""The delta: items written since the snapshot, searched exactly in memory."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import ScoredRows, nearest_rows

Scalar = TypeVar("Scalar", bound=np.generic)

# Initial capacity for vectors. It is large because growing copies all vectors while a search waits,
# and costs little because the operating system provides memory only for pages that are written.
_INITIAL_BYTES = 64 * 1024 * 1024


class Delta:
    """Rows with their vectors, in no particular order.

    Args:
        dimension: length D of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self._vectors = np.empty((0, dimension), np.float32)
        self._rows = np.empty(0, np.int64)
        self._positions: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, row: int) -> bool:
        return row in self._positions

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) int64; a view that is valid until the next change."""
        return self._rows[: len(self)]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) float32, in the order of `rows`; a view that is valid until the next change."""
        return self._vectors[: len(self)]

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds rows that are not in the delta.

        Args:
            rows: (N,) int64.
            vectors: (N, D) float32.
        """
        start, end = len(self), len(self) + len(rows)
        if end > len(self._rows):
            initial = _INITIAL_BYTES // (4 * self._vectors.shape[1])
            capacity = max(initial, end, 2 * len(self._rows))
            self._vectors = _copy_with_capacity(self._vectors, capacity)
            self._rows = _copy_with_capacity(self._rows, capacity)
        self._vectors[start:end] = vectors
        self._rows[start:end] = rows
        self._positions.update(zip(rows.tolist(), range(start, end), strict=True))

    def remove(self, row: int) -> None:
        """Removes a row that is in the delta; the last row takes its position."""
        last_position = len(self) - 1
        position = self._positions.pop(row)
        if position != last_position:
            self._vectors[position] = self._vectors[last_position]
            self._rows[position] = self._rows[last_position]
            self._positions[int(self._rows[position])] = position

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> ScoredRows:
        """Finds the nearest rows.

        Args:
            queries: (B, D) float32.
            k: maximum number of rows per query.
            allowed: (N,) bool in the order of `rows`; None allows all.
        """
        rows, vectors = self.rows, self.vectors
        if allowed is not None:
            rows, vectors = rows[allowed], vectors[allowed]
        return nearest_rows(queries, rows, vectors, k)


def _copy_with_capacity(array: NDArray[Scalar], capacity: int) -> NDArray[Scalar]:
    copy = np.empty((capacity, *array.shape[1:]), array.dtype)
    copy[: len(array)] = array
    return copy
