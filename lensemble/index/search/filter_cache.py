"""Which rows fit a filter, remembered.

A row's document never changes, so what was once found stays true: of a filter that was asked
before, only rows written since are looked at. Rows that are gone are left out by the searcher.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.reader import StoreReader

MAX_FILTERS = 64
MAX_ROWS = 32_000_000
"""Row numbers kept for all filters together: 256 MB."""


@dataclass(slots=True)
class FilterRows:
    """The rows that fit one filter."""

    condition: Filter
    sequence: int = 0
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    snapshot: str = ""
    last_row: int = 0
    mask: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))


class FilterCache:
    """Rows that fit filters, for one searcher.

    Args:
        reader: The store.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._known: OrderedDict[str, FilterRows] = OrderedDict()

    def follow(self, text: str, sequence: int) -> NDArray[np.int64]:
        """Rows that fit a filter, among all that were live at some time.

        Call it inside `Reader.reading`, where the store is at `sequence`.

        Args:
            text: Of the filter.
            sequence: Of the store at this moment.

        Returns:
            (N,) int64, ascending.

        Raises:
            InvalidInputError: It is no filter.
            StorageError: The file is damaged.
        """
        known = self._known.pop(text, None) or FilterRows(Filter.parse(text))
        if known.sequence < sequence:
            fresh = self._reader.matching(known.condition, known.sequence)
            if len(fresh):
                known.rows = np.concatenate([known.rows, fresh])
                if fresh[0] <= known.last_row:  # a snapshot may hold them
                    known.snapshot = ""
            known.sequence = sequence
        self._known[text] = known
        return known.rows

    def is_known(self, text: str, sequence: int) -> bool:
        """Whether `follow` would ask the store nothing."""
        return text in self._known and self._known[text].sequence == sequence

    def in_snapshot(self, text: str, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Positions of a snapshot that fit a filter which was followed, (N,) bool."""
        known = self._known[text]
        if known.snapshot != snapshot.name:
            known.mask = np.zeros(len(snapshot.rows), np.bool_)
            known.mask[snapshot.positions(known.rows)] = True
            known.snapshot, known.last_row = snapshot.name, snapshot.manifest.last_row
        return known.mask

    def among(self, text: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows (N,) fit a filter that was followed, (N,) bool."""
        fit = self._known[text].rows
        at = np.searchsorted(fit, rows)
        found = at < len(fit)
        found[found] = fit[at[found]] == rows[found]
        return found

    def clear(self) -> None:
        """Forgets everything, as after another store took this one's place."""
        self._known.clear()

    def forget_oldest(self) -> None:
        """Keeps what was asked last, within the limits; call it after a batch."""
        while len(self._known) > 1 and (
            len(self._known) > MAX_FILTERS
            or sum(len(known.rows) for known in self._known.values()) > MAX_ROWS
        ):
            self._known.popitem(last=False)
