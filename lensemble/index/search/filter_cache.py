"""Caches which rows match a filter.

The document of a row never changes, so a row that matches a filter always will. When a cached
filter is used again, only the rows that were written after its last use are checked. Rows that were
removed after that stay in the cache, and the searcher skips them.
"""

from __future__ import annotations

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from lensemble.index.snapshots.snapshot import Snapshot, find_rows
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.reader import StoreReader
from lensemble_contract.filters import ComparedField

MAX_FILTERS = 64
MAX_ROWS = 32_000_000  # row numbers of all cached filters together: 256 MB


class FilterRows:
    """The rows that match one filter.

    Args:
        filter_: the filter.

    Attributes:
        filter: the filter.
        sequence: sequence number of the store up to which rows were checked.
        rows: (N,) int64, ascending; the rows that were live when they were checked, and match.
        unmet: fields of the filter without a value of the right kind in any document so far, and
            the kinds that they have.
    """

    def __init__(self, filter_: Filter) -> None:
        self.filter = filter_
        self.sequence = 0
        self.rows = np.empty(0, np.int64)
        self.unmet: dict[ComparedField, frozenset[str]] = dict.fromkeys(
            filter_.compared, frozenset()
        )
        # The mask of the snapshot that was searched last, the name of that snapshot (empty if the
        # mask must be computed again), and the highest row number that it may contain.
        self._mask = np.empty(0, np.bool_)
        self._mask_snapshot = ""
        self._mask_last_row = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Hints about the filter; see `lensemble_contract.filters`."""
        return tuple(compared.warning(found) for compared, found in self.unmet.items())

    def look_for_kinds(self, reader: StoreReader) -> None:
        """Looks for values of the right kind in the rows that were written after `sequence`.

        Call it before `extend`.

        Raises:
            StorageError: The file is damaged.
        """
        for compared, found in [*self.unmet.items()]:
            kinds = reader.kinds_of(compared.field, compared.kinds, self.sequence)
            if kinds & compared.kinds:
                del self.unmet[compared]
            else:
                self.unmet[compared] = found | kinds

    def extend(self, rows: NDArray[np.int64], sequence: int) -> None:
        """Adds matching rows that were written after `self.sequence`.

        Args:
            rows: (M,) int64, ascending.
            sequence: sequence number of the store up to which rows have now been checked.
        """
        if len(rows):
            self.rows = np.concatenate([self.rows, rows])
            if rows[0] <= self._mask_last_row:
                self._mask_snapshot = ""
        self.sequence = sequence

    def snapshot_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Whether the row at each position of a snapshot matches, (N,) bool."""
        if self._mask_snapshot != snapshot.name:
            self._mask = np.zeros(len(snapshot.rows), np.bool_)
            self._mask[snapshot.positions(self.rows)] = True
            self._mask_snapshot = snapshot.name
            self._mask_last_row = snapshot.manifest.last_row
        return self._mask

    def row_mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of the rows (N,) matches, (N,) bool."""
        _, found = find_rows(self.rows, rows)
        return found


class FilterCache:
    """The most recently used filters of one searcher, with their matching rows.

    Args:
        reader: the store.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._cache: LRUCache[str, FilterRows] = LRUCache(MAX_ROWS, getsizeof=_cache_size)

    def cached(self, text: str, sequence: int) -> FilterRows | None:
        """The matching rows at a sequence number; None if the store must be read to find them.

        Args:
            text: JSON text of the filter.
            sequence: sequence number of the store.
        """
        entry = self._cache.get(text)
        return entry if entry is not None and entry.sequence == sequence else None

    def update(self, text: str, sequence: int) -> FilterRows:
        """The matching rows at a sequence number, read from the store as far as necessary.

        Call it inside `StoreReader.reading`.

        Args:
            text: JSON text of the filter.
            sequence: sequence number of the store.

        Raises:
            InvalidInputError: The text is not a filter.
            StorageError: The file is damaged.
        """
        entry = self._cache.pop(text, None) or FilterRows(Filter.parse(text))
        if entry.sequence < sequence:
            new_rows = self._reader.rows_matching(entry.filter, entry.sequence)
            entry.look_for_kinds(self._reader)
            entry.extend(new_rows, sequence)
        self._cache[text] = entry
        return entry


def _cache_size(entry: FilterRows) -> int:
    """The number of row numbers that an entry counts for in the cache.

    Entries with few rows count for `MAX_ROWS // MAX_FILTERS`, so the cache holds at most
    `MAX_FILTERS` of them. No entry counts for more than `MAX_ROWS`, because the cache would refuse
    it.
    """
    return min(max(len(entry.rows), MAX_ROWS // MAX_FILTERS), MAX_ROWS)
