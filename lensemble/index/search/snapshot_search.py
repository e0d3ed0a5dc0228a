"""Searches a snapshot with FAISS. Results contain no removed rows, and only rows that are allowed.

Scores are computed from the full-precision vectors. If FAISS finds too few rows, as IVF does with a
filter that few rows match, the query is compared with every allowed vector, so a search never
returns fewer rows than it could. FAISS on GPUs ignores selectors without an error. So no selectors
are used there, and rows that are not allowed are dropped from the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import (
    ScoredRows,
    merge_top_k,
    nearest_rows,
    select_top_k,
    true_scores,
)
from lensemble.index.snapshots.faiss_index import GPU_MAX_K, gpu_count, search_parameters, to_gpu
from lensemble.index.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)

# If a filter allows at most this share of the snapshot, the query is compared with every allowed
# vector: IVF's recall would be low (0.85 at 1 %), and the comparison takes no longer.
SCAN_SHARE = 0.02
# If a filter allows at most this number of rows, the query is always compared with all of them.
SCAN_ROWS = 1000
# If at least this share of all rows is allowed, FAISS searches without a selector, and rows that
# are not allowed are dropped from the result.
_DROP_SHARE = 0.25
# Number of additional candidates that FAISS is asked for when rows are dropped from its result.
_EXTRA_CANDIDATES = 16
# Size of the vectors that are read at a time when a query is compared with every allowed vector.
_SCAN_BYTES = 64 * 1024 * 1024


class SnapshotSearch:
    """Searches a loaded snapshot, and knows which of its rows were removed after it was made.

    Args:
        snapshot: snapshot to search.
        device: `cpu`, or a GPU such as `cuda:0`, on which FAISS searches if it can.

    Attributes:
        snapshot: snapshot to search.
        removed: (N,) bool, by position; True if the row was removed.
    """

    def __init__(self, snapshot: Snapshot, device: str = "cpu") -> None:
        self.snapshot = snapshot
        self.removed = np.zeros(len(snapshot.rows), np.bool_)
        self._index, self._gpu = snapshot.index, False
        if device.startswith("cuda") and snapshot.kind.on_gpu and gpu_count() > 0:
            try:
                self._index = to_gpu(snapshot.index, int(device.partition(":")[2] or 0))
                self._gpu = True
            except RuntimeError as error:  # not enough memory, or a kind that FAISS cannot copy
                logger.warning("snapshot %s is searched on the CPU: %s", snapshot.name, error)

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return len(self.removed) - self.dead

    @property
    def dead(self) -> int:
        """Number of rows that were removed."""
        return int(np.count_nonzero(self.removed))

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
        usable_count = int(np.count_nonzero(usable))
        k = min(k, usable_count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        if allowed is not None and usable_count <= max(SCAN_ROWS, SCAN_SHARE * len(usable)):
            return self._scan(queries, k, usable)
        scores, positions = self._search_faiss(queries, k, usable, usable_count, parameters)
        too_few = (positions < 0).any(axis=1) & np.isfinite(queries).all(axis=1)
        rows = np.where(positions >= 0, self.snapshot.rows[positions], -1)
        if too_few.any():
            scores[too_few], rows[too_few] = self._scan(queries[too_few], k, usable)
        return scores, rows

    def _scan(self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_]) -> ScoredRows:
        """Compares the queries with every usable vector, in parts of at most 64 MiB."""
        positions = np.flatnonzero(usable)
        step = max(1, _SCAN_BYTES // (4 * queries.shape[1]))
        results = []
        for start in range(0, len(positions), step):
            part = positions[start : start + step]
            rows, vectors = self.snapshot.rows[part], self.snapshot.vectors[part]
            results.append(nearest_rows(queries, rows, vectors, k))
        return merge_top_k(results, k)

    def _search_faiss(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        usable_count: int,
        parameters: Mapping[str, int] | None,
    ) -> ScoredRows:
        """Scores and positions that FAISS finds, (B, k); position -1 where there are fewer."""
        merged = {**self.snapshot.manifest.parameters, **(parameters or {})}
        wanted = k * max(1, merged.get("rerank", 1))
        # Number of candidates that a search with a selector returns.
        selector_candidates = min(wanted, usable_count)
        share = usable_count / len(usable)
        if share < _DROP_SHARE and not self._gpu:
            return self._best_candidates(queries, k, usable, merged, selector_candidates, usable)
        # FAISS is slower with a selector than without. So ask for more candidates than are needed,
        # and drop those that are not allowed.
        limit = min(len(usable), GPU_MAX_K) if self._gpu else len(usable)
        candidates = min(int(wanted / share) + _EXTRA_CANDIDATES, limit)
        scores, positions = self._best_candidates(queries, k, usable, merged, candidates, None)
        too_few = (positions < 0).any(axis=1)
        if too_few.any() and share < 1 and not self._gpu:
            scores[too_few], positions[too_few] = self._best_candidates(
                queries[too_few], k, usable, merged, selector_candidates, usable
            )
        return scores, positions

    def _best_candidates(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        parameters: Mapping[str, int],
        candidates: int,
        selector: NDArray[np.bool_] | None,
    ) -> ScoredRows:
        """The best k of FAISS's candidates by their true scores; (B, k) scores and positions.

        Args:
            queries: (B, D) float32.
            k: number of columns of the result.
            usable: (N,) bool; other positions are dropped.
            parameters: all parameters of the kind.
            candidates: number of candidates that FAISS returns per query.
            selector: (N,) bool, positions that FAISS may return; None allows all.
        """
        options, _referenced = search_parameters(self.snapshot.kind, parameters, selector)
        scores, positions = self._index.search(queries, candidates, params=options)
        positions = np.where((positions >= 0) & usable[positions], positions, -1)
        if self.snapshot.kind.rerank:
            scores = true_scores(queries, positions, self.snapshot.vectors)
        return select_top_k(np.where(positions >= 0, scores, -np.inf), positions, k)
