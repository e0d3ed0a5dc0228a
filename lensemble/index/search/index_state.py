"""All live rows of a store at one sequence number: a snapshot, the delta, and known removals."""

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
        snapshot: loaded snapshot; None if there is none, so that all rows are in the delta.

    Attributes:
        snapshot: as given, or as set by `switch_snapshot`.
        delta: live rows that the snapshot lacks.
        sequence: sequence number of the last change that was applied.
    """

    def __init__(self, dimension: int, snapshot: SnapshotSearch | None) -> None:
        self.snapshot = snapshot
        self.delta = Delta(dimension)
        self.sequence = self.snapshot_sequence
        self._dimension = dimension
        # Known removals: row, sequence number of its removal. A newer snapshot that is loaded later
        # may still have these rows.
        self._removals = np.empty((0, 2), np.int64)
        self._removals_since = self.sequence

    @classmethod
    def read(cls, store: StoreReader, snapshot: SnapshotSearch | None) -> Self:
        """Reads the current state of a store: a snapshot and all changes since.

        If the tombstones since the snapshot were purged, the state has no snapshot.

        Raises:
            StorageError: The store is damaged.
        """
        state = cls(store.dimension, snapshot)
        if snapshot is not None:
            snapshot.removed[:] = False
        try:
            state.apply(store.changes_since(state.sequence))
        except TombstonesPurgedError:
            return cls.read(store, None)
        if snapshot is None:
            # Tombstones that were older than this read may have been purged, so they are not all
            # among the known removals.
            state._removals_since = state.sequence
        return state

    def __len__(self) -> int:
        """Number of live rows."""
        return (self.snapshot.live if self.snapshot else 0) + len(self.delta)

    @property
    def snapshot_name(self) -> str:
        """Name of the snapshot; empty if there is none."""
        return self.snapshot.snapshot.name if self.snapshot else ""

    @property
    def snapshot_sequence(self) -> int:
        """Sequence number of the snapshot; 0 if there is none."""
        return self.snapshot.snapshot.manifest.sequence if self.snapshot else 0

    def apply(self, changes: StoreChanges) -> None:
        """Applies the changes after `sequence`."""
        for row in changes.removed.tolist():
            if row in self.delta:
                self.delta.remove(row)
        if self.snapshot is not None:
            self.snapshot.remove(changes.removed)
        removals = np.column_stack([changes.removed, changes.removed_at])
        self._removals = np.concatenate([self._removals, removals])
        self.delta.add(changes.rows, changes.vectors)
        self.sequence = changes.sequence

    def can_switch_to(self, snapshot: SnapshotSearch) -> bool:
        """Whether all removals since a snapshot are known, as `switch_snapshot` requires."""
        return snapshot.snapshot.manifest.sequence >= self._removals_since

    def switch_snapshot(self, snapshot: SnapshotSearch) -> None:
        """Replaces the snapshot with a newer one; the delta keeps the rows that this one lacks."""
        manifest = snapshot.snapshot.manifest
        newer = self.delta.rows > manifest.last_row
        delta = Delta(self._dimension)
        delta.add(self.delta.rows[newer], self.delta.vectors[newer])
        self._removals = self._removals[self._removals[:, 1] > manifest.sequence]
        snapshot.remove(self._removals[:, 0])
        self.snapshot, self.delta = snapshot, delta

    def search(
        self, queries: NDArray[np.float32], k: int, matching: FilterRows | None = None
    ) -> ScoredRows:
        """Finds the nearest live rows.

        Args:
            queries: (B, D) float32.
            k: maximum number of rows per query.
            matching: rows that match a filter; None allows all.
        """
        allowed = matching.contains(self.delta.rows) if matching else None
        parts = [self.delta.search(queries, k, allowed)]
        if self.snapshot is not None:
            allowed = matching.in_snapshot(self.snapshot.snapshot) if matching else None
            parts.append(self.snapshot.search(queries, k, allowed))
        return merge_top_k(parts, k)
