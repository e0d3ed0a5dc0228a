"""Caches which rows match a filter.

The document of a row never changes, so a row that matched once matches always. For a cached filter,
only rows written since its last use are checked. Rows that were removed since stay in the cache;
the searcher skips them.
"""

from __future__ import annotations

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.reader import StoreReader

MAX_FILTERS = 64
MAX_ROWS = 32_000_000  # row numbers of all cached filters together: 256 MB


class FilterRows:
    """The rows that match one filter.

    Args:
        condition: the filter.

    Attributes:
        condition: the filter.
        sequence: sequence number of the store up to which rows were checked.
        rows: (N,) int64, ascending; matching rows among all rows that were live at some time.
    """

    def __init__(self, condition: Filter) -> None:
        self.condition = condition
        self.sequence = 0
        self.rows = np.empty(0, np.int64)
        self._snapshot = ""  # snapshot of `_mask`
        self._last_row = 0  # highest row number that this snapshot may have
        self._mask = np.empty(0, np.bool_)

    def extend(self, rows: NDArray[np.int64], sequence: int) -> None:
        """Adds the matching rows (M,) that were written since, up to a sequence number."""
        if len(rows):
            self.rows = np.concatenate([self.rows, rows])
            if rows[0] <= self._last_row:  # the snapshot may have these rows, so compute a new mask
                self._snapshot = ""
        self.sequence = sequence

    def in_snapshot(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Which positions of a snapshot match, (N,) bool."""
        if self._snapshot != snapshot.name:
            self._mask = np.zeros(len(snapshot.rows), np.bool_)
            self._mask[snapshot.positions(self.rows)] = True
            self._snapshot, self._last_row = snapshot.name, snapshot.manifest.last_row
        return self._mask

    def contains(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the given rows (N,) match, (N,) bool."""
        positions = np.searchsorted(self.rows, rows)
        matches = positions < len(self.rows)
        matches[matches] = self.rows[positions[matches]] == rows[matches]
        return matches


class FilterCache:
    """The most recently used filters of one searcher, with their matching rows.

    Args:
        reader: the store.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._cache: LRUCache[str, FilterRows] = LRUCache(MAX_ROWS, getsizeof=_cache_size)

    def cached(self, text: str, sequence: int) -> FilterRows | None:
        """The matching rows at a sequence number, if they are known without asking the store.

        Args:
            text: JSON text of the filter.
            sequence: sequence number of the store.
        """
        entry = self._cache.get(text)
        return entry if entry is not None and entry.sequence == sequence else None

    def update(self, text: str, sequence: int) -> FilterRows:
        """The matching rows, brought up to date; call it inside `StoreReader.reading`.

        Args:
            text: JSON text of the filter.
            sequence: sequence number of the store.

        Raises:
            InvalidInputError: The text is not a filter.
            StorageError: The file is damaged.
        """
        entry = self._cache.pop(text, None) or FilterRows(Filter.parse(text))
        if entry.sequence < sequence:
            new_rows = self._reader.rows_matching(entry.condition, entry.sequence)
            entry.extend(new_rows, sequence)
        self._cache[text] = entry
        return entry


def _cache_size(entry: FilterRows) -> int:
    """Size in row numbers, at least so much that at most `MAX_FILTERS` entries fit.

    It is never above the size of the cache, which would refuse such an entry.
    """
    return min(max(len(entry.rows), MAX_ROWS // MAX_FILTERS), MAX_ROWS)
