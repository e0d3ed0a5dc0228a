"""Searching a snapshot: FAISS, without what was removed or filtered out, scored by whole vectors.

Nobody gets fewer items than there are: where FAISS comes back short, as IVF does behind a narrow
filter, the allowed vectors are compared one by one. Plain FAISS on GPUs ignores selectors without a
word, so none is given to it: what may not be shown is dropped from the result there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact import ScoredRows, best, nearest
from lensemble.index.snapshots.kinds import GPU_MAX_K, gpu_count, search_parameters, to_gpu
from lensemble.index.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)

SCAN_SHARE = 0.02
"""Allowed rows up to this share of all are compared one by one: behind so narrow a filter IVF's
recall breaks down (0.85 at 1 %), and a scan costs no more."""
SCAN_ROWS = 1000
"""As few rows as that are always compared one by one."""
_DROPPED_SHARE = 0.25
"""Where at least this share of all rows may be shown, what may not is dropped from the result."""
_SPARE = 16
_SCORED_BYTES = 64 * 1024 * 1024


class SnapshotSearch:
    """A loaded snapshot, and what of it was removed since.

    Args:
        snapshot: To be searched.
        device: `cpu`, or `cuda:0` and the like: there FAISS searches on that GPU if it can.

    Attributes:
        snapshot: To be searched.
        removed: (N,) bool, positions whose rows are gone.
    """

    def __init__(self, snapshot: Snapshot, device: str = "cpu") -> None:
        self.snapshot = snapshot
        self.removed = np.zeros(len(snapshot.rows), np.bool_)
        self._index, self._gpu = snapshot.index, False
        if device.startswith("cuda") and snapshot.kind.on_gpu and gpu_count() > 0:
            try:
                self._index = to_gpu(snapshot.index, int(device.partition(":")[2] or 0))
                self._gpu = True
            except RuntimeError as error:  # not enough memory, or a kind that this FAISS lacks
                logger.warning("snapshot %s is searched on the CPU: %s", snapshot.name, error)

    @property
    def live(self) -> int:
        """How many rows are left."""
        return len(self.removed) - int(np.count_nonzero(self.removed))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Marks rows (M,) as gone; those that are not in the snapshot are no fault."""
        self.removed[self.snapshot.positions(rows)] = True

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """The nearest rows.

        Args:
            queries: (B, D) float32.
            k: How many at most.
            allowed: (N,) bool by position; None allows all.
            parameters: Of the kind, in place of the snapshot's.
        """
        usable = ~self.removed if allowed is None else allowed & ~self.removed
        count = int(np.count_nonzero(usable))
        k = min(k, count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        if allowed is not None and count <= max(SCAN_ROWS, SCAN_SHARE * len(usable)):
            return self._scan(queries, k, usable)
        scores, at = self._approximate(queries, k, usable, count, parameters)
        short = (at < 0).any(axis=1) & np.isfinite(queries).all(axis=1)
        at = np.where(at >= 0, self.snapshot.rows[at], -1)
        if short.any():
            scores[short], at[short] = self._scan(queries[short], k, usable)
        return scores, at

    def _scan(self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_]) -> ScoredRows:
        """Compares with every usable vector."""
        positions = np.flatnonzero(usable)
        step = max(1, _SCORED_BYTES // (4 * queries.shape[1]))
        parts = []
        for start in range(0, len(positions), step):
            some = positions[start : start + step]
            parts.append(nearest(queries, self.snapshot.rows[some], self.snapshot.vectors[some], k))
        scores = np.concatenate([scores for scores, _ in parts], axis=1)
        rows = np.concatenate([rows for _, rows in parts], axis=1)
        return best(scores, rows, k)

    def _approximate(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        count: int,
        parameters: Mapping[str, int] | None,
    ) -> ScoredRows:
        """By FAISS; positions, -1 where it found fewer than k."""
        said = {**self.snapshot.manifest.parameters, **(parameters or {})}
        wanted = k * max(1, said.get("rerank", 1))
        share = count / len(usable)
        if share < _DROPPED_SHARE and not self._gpu:
            return self._candidates(queries, k, usable, said, min(wanted, count), usable)
        # FAISS filters slower than it searches: ask for some more, and drop what may not be shown.
        most = min(len(usable), GPU_MAX_K) if self._gpu else len(usable)
        fetched = min(int(wanted / share) + _SPARE, most)
        found = self._candidates(queries, k, usable, said, fetched, None)
        short = (found[1] < 0).any(axis=1)
        if short.any() and share < 1 and not self._gpu:
            found[0][short], found[1][short] = self._candidates(
                queries[short], k, usable, said, min(wanted, count), usable
            )
        return found

    def _candidates(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        said: Mapping[str, int],
        fetched: int,
        selected: NDArray[np.bool_] | None,
    ) -> ScoredRows:
        """The best k of so many that FAISS finds, by their true scores."""
        scores, at = self._faiss(queries, fetched, said, selected)
        at = np.where((at >= 0) & usable[at], at, -1)
        if self.snapshot.kind.rerank:
            scores = self._rescored(queries, at)
        return best(np.where(at >= 0, scores, -np.inf), at, k)

    def _faiss(
        self,
        queries: NDArray[np.float32],
        k: int,
        said: Mapping[str, int],
        allowed: NDArray[np.bool_] | None,
    ) -> ScoredRows:
        params, _kept = search_parameters(self.snapshot.kind, said, allowed)
        found: ScoredRows = self._index.search(queries, k, params=params)
        return found

    def _rescored(self, queries: NDArray[np.float32], at: NDArray[np.int64]) -> NDArray[np.float32]:
        """True scores of candidates; what stands for none gets any."""
        scores = np.empty(at.shape, np.float32)
        for n, positions in enumerate(at):
            scores[n] = self.snapshot.vectors[positions] @ queries[n]
        return scores
