"""Searching a snapshot with FAISS, without removed or filtered rows, scored by the whole vectors.

A search never returns fewer rows than it could: where FAISS finds too few, as IVF does with a
narrow filter, the allowed vectors are compared one by one. FAISS on GPUs ignores selectors without
an error, so on a GPU none are used, and rows that are not allowed are dropped from the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import ScoredRows, nearest_rows, select_top_k
from lensemble.index.snapshots.faiss_index import GPU_MAX_K, gpu_count, search_parameters, to_gpu
from lensemble.index.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)

# Up to this share of the snapshot, allowed rows are compared one by one: with so narrow a filter
# IVF's recall breaks down (0.85 at 1 %), and comparing costs no more.
SCAN_SHARE = 0.02
# Up to this number, allowed rows are always compared one by one.
SCAN_ROWS = 1000
# If at least this share of all rows is allowed, FAISS searches without a selector, and other rows
# are dropped from the result.
_DROP_SHARE = 0.25
_SPARE = 16  # candidates that FAISS is asked for in addition
_SCAN_BYTES = 64 * 1024 * 1024


class SnapshotSearch:
    """Searches a loaded snapshot, and knows which of its rows were removed since.

    Args:
        snapshot: snapshot to search.
        device: `cpu`, or a GPU such as `cuda:0`, on which FAISS searches if it can.

    Attributes:
        snapshot: snapshot to search.
        removed: (N,) bool, by position; whether the row was removed.
    """

    def __init__(self, snapshot: Snapshot, device: str = "cpu") -> None:
        self.snapshot = snapshot
        self.removed = np.zeros(len(snapshot.rows), np.bool_)
        self._index, self._gpu = snapshot.index, False
        if device.startswith("cuda") and snapshot.kind.on_gpu and gpu_count() > 0:
            try:
                self._index = to_gpu(snapshot.index, int(device.partition(":")[2] or 0))
                self._gpu = True
            except RuntimeError as error:  # too little memory, or a kind that FAISS cannot copy
                logger.warning("snapshot %s is searched on the CPU: %s", snapshot.name, error)

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return len(self.removed) - int(np.count_nonzero(self.removed))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Marks rows (M,) as removed; rows that the snapshot lacks are ignored."""
        self.removed[self.snapshot.positions(rows)] = True

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """Finds the nearest rows.

        Args:
            queries: (B, D) float32.
            k: maximum number of rows per query.
            allowed: (N,) bool, by position; None allows all.
            parameters: parameters of the kind that replace those of the snapshot.
        """
        usable = ~self.removed if allowed is None else allowed & ~self.removed
        count = int(np.count_nonzero(usable))
        k = min(k, count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        if allowed is not None and count <= max(SCAN_ROWS, SCAN_SHARE * len(usable)):
            return self._scan(queries, k, usable)
        scores, positions = self._search_faiss(queries, k, usable, count, parameters)
        too_few = (positions < 0).any(axis=1) & np.isfinite(queries).all(axis=1)
        rows = np.where(positions >= 0, self.snapshot.rows[positions], -1)
        if too_few.any():
            scores[too_few], rows[too_few] = self._scan(queries[too_few], k, usable)
        return scores, rows

    def _scan(self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_]) -> ScoredRows:
        """Compares the queries with every usable vector, in parts of at most 64 MiB."""
        positions = np.flatnonzero(usable)
        step = max(1, _SCAN_BYTES // (4 * queries.shape[1]))
        parts = []
        for start in range(0, len(positions), step):
            part = positions[start : start + step]
            rows, vectors = self.snapshot.rows[part], self.snapshot.vectors[part]
            parts.append(nearest_rows(queries, rows, vectors, k))
        all_scores = np.concatenate([scores for scores, _ in parts], axis=1)
        all_rows = np.concatenate([rows for _, rows in parts], axis=1)
        return select_top_k(all_scores, all_rows, k)

    def _search_faiss(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        count: int,
        parameters: Mapping[str, int] | None,
    ) -> ScoredRows:
        """Scores and positions that FAISS finds, (B, k); position -1 where there are fewer."""
        merged = {**self.snapshot.manifest.parameters, **(parameters or {})}
        candidates = k * max(1, merged.get("rerank", 1))
        share = count / len(usable)
        if share < _DROP_SHARE and not self._gpu:
            return self._best_candidates(queries, k, usable, merged, min(candidates, count), usable)
        # FAISS is slower with a selector than without, so ask for more candidates than needed, and
        # drop those that are not allowed.
        most = min(len(usable), GPU_MAX_K) if self._gpu else len(usable)
        fetched = min(int(candidates / share) + _SPARE, most)
        scores, positions = self._best_candidates(queries, k, usable, merged, fetched, None)
        too_few = (positions < 0).any(axis=1)
        if too_few.any() and share < 1 and not self._gpu:
            scores[too_few], positions[too_few] = self._best_candidates(
                queries[too_few], k, usable, merged, min(candidates, count), usable
            )
        return scores, positions

    def _best_candidates(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        parameters: Mapping[str, int],
        fetched: int,
        selected: NDArray[np.bool_] | None,
    ) -> ScoredRows:
        """The best k of `fetched` candidates by their true scores; (B, k) scores and positions.

        Args:
            queries: (B, D) float32.
            k: number of columns of the result.
            usable: (N,) bool; other positions are dropped.
            parameters: all parameters of the kind.
            fetched: number of candidates that FAISS returns per query.
            selected: (N,) bool, positions that FAISS may return; None allows all.
        """
        options, _referenced = search_parameters(self.snapshot.kind, parameters, selected)
        scores, positions = self._index.search(queries, fetched, params=options)
        positions = np.where((positions >= 0) & usable[positions], positions, -1)
        if self.snapshot.kind.rerank:
            scores = self._true_scores(queries, positions)
        return select_top_k(np.where(positions >= 0, scores, -np.inf), positions, k)

    def _true_scores(
        self, queries: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Scores of candidates from the whole vectors; arbitrary where the position is -1."""
        scores = np.empty(positions.shape, np.float32)
        for query, row in enumerate(positions):
            scores[query] = self.snapshot.vectors[row] @ queries[query]
        return scores
