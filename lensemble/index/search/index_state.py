"""All live rows of a store at one sequence number: a snapshot's and the delta's."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index.search.delta import Delta
from lensemble.index.search.filter_cache import FilterRows
from lensemble.index.search.snapshot_search import SnapshotSearch
from lensemble.index.snapshots.exact_search import ScoredRows, merge_top_k
from lensemble.index.storage.read_results import StoreChanges
from lensemble.index.storage.reader import StoreReader, TombstonesPurgedError


class IndexState:
    """All live rows of a store at one sequence number.

    Args:
        dimension: length D of the vectors.
        snapshot_search: search of a loaded snapshot; None if there is none, so that all rows are in
            the delta.

    Attributes:
        snapshot_search: search of the current snapshot, which `switch_snapshot` replaces.
        delta: live rows that the snapshot lacks.
        sequence: sequence number of the last change that was applied.
    """

    def __init__(self, dimension: int, snapshot_search: SnapshotSearch | None) -> None:
        self.snapshot_search = snapshot_search
        self.delta = Delta(dimension)
        self.sequence = self.snapshot_sequence
        self._dimension = dimension
        # (N, 2): a removed row, and the sequence number of its removal. They are kept because a
        # newer snapshot, loaded later, may still contain these rows.
        self._removals = np.empty((0, 2), np.int64)
        # `_removals` has every removal after this sequence number that such a snapshot may lack.
        self._removals_since = self.sequence

    @classmethod
    def read(cls, store: StoreReader, snapshot_search: SnapshotSearch | None) -> Self:
        """Reads the current state of a store: a snapshot, and all changes after it.

        If tombstones after the snapshot were purged, the state has no snapshot.

        Raises:
            StorageError: The store is damaged.
        """
        state = cls(store.dimension, snapshot_search)
        if snapshot_search is not None:
            snapshot_search.removed[:] = False
        try:
            state.apply(store.changes_since(state.sequence))
        except TombstonesPurgedError:
            return cls.read(store, None)
        if snapshot_search is None:
            # Older tombstones may have been purged before this read, so `_removals` may lack them.
            state._removals_since = state.sequence
        return state

    def __len__(self) -> int:
        """Number of live rows."""
        return (self.snapshot_search.live if self.snapshot_search else 0) + len(self.delta)

    @property
    def snapshot_name(self) -> str:
        """Name of the snapshot; empty if there is none."""
        return self.snapshot_search.snapshot.name if self.snapshot_search else ""

    @property
    def snapshot_sequence(self) -> int:
        """Sequence number of the snapshot; 0 if there is none."""
        return self.snapshot_search.snapshot.manifest.sequence if self.snapshot_search else 0

    def apply(self, changes: StoreChanges) -> None:
        """Applies the changes after `sequence`."""
        for row in changes.removed.tolist():
            if row in self.delta:
                self.delta.remove(row)
        if self.snapshot_search is not None:
            self.snapshot_search.remove(changes.removed)
        removals = np.column_stack([changes.removed, changes.removed_at])
        self._removals = np.concatenate([self._removals, removals])
        self.delta.add(changes.rows, changes.vectors)
        self.sequence = changes.sequence

    def can_switch_to(self, snapshot_search: SnapshotSearch) -> bool:
        """Whether all removals after a snapshot are known, as `switch_snapshot` requires."""
        return snapshot_search.snapshot.manifest.sequence >= self._removals_since

    def switch_snapshot(self, snapshot_search: SnapshotSearch) -> None:
        """Replaces the snapshot with a newer one; the delta keeps the rows that the newer lacks."""
        manifest = snapshot_search.snapshot.manifest
        is_newer = self.delta.rows > manifest.last_row
        delta = Delta(self._dimension)
        delta.add(self.delta.rows[is_newer], self.delta.vectors[is_newer])
        self._removals = self._removals[self._removals[:, 1] > manifest.sequence]
        snapshot_search.remove(self._removals[:, 0])
        self.snapshot_search, self.delta = snapshot_search, delta

    def search(
        self, queries: NDArray[np.float32], k: int, matching: FilterRows | None = None
    ) -> ScoredRows:
        """Finds the nearest live rows.

        Args:
            queries: (B, D) float32.
            k: maximum number of rows per query.
            matching: rows that match a filter; None allows all.
        """
        allowed = matching.row_mask(self.delta.rows) if matching else None
        results = [self.delta.search(queries, k, allowed)]
        if self.snapshot_search is not None:
            snapshot = self.snapshot_search.snapshot
            allowed = matching.snapshot_mask(snapshot) if matching else None
            results.append(self.snapshot_search.search(queries, k, allowed))
        return merge_top_k(results, k)
