"""Searches the FAISS index of a snapshot, on a CPU or on a GPU, and drops unusable rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import ScoredRows, select_top_k, true_scores
from lensemble.index.snapshots.faiss_index import GPU_MAX_K, search_parameters
from lensemble.index.snapshots.snapshot import Snapshot

# If at least this share of all rows is usable, FAISS searches without a selector, and rows that
# are not usable are dropped from the result.
_DROP_SHARE = 0.25
# Number of additional candidates that FAISS is asked for when rows are dropped from its result.
_EXTRA_CANDIDATES = 16


class FaissSearch:
    """Searches the FAISS index of a snapshot.

    Args:
        snapshot: the snapshot.
        index: its index, or a copy of it on a GPU.
        on_gpu: whether it is such a copy. FAISS on GPUs ignores selectors without an error. So no
            selectors are used there, and rows that are not usable are dropped from the result.
    """

    def __init__(self, snapshot: Snapshot, index: Any, *, on_gpu: bool = False) -> None:
        self._snapshot, self._index, self._on_gpu = snapshot, index, on_gpu

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        usable_count: int,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """Scores and positions that FAISS finds, (B, k); position -1 where there are fewer.

        Args:
            queries: (B, D) float32.
            k: number of positions for each query, at most `usable_count`.
            usable: (N,) bool, positions that may be returned.
            usable_count: how many these are.
            parameters: parameters of the kind that replace those of the snapshot.

        Raises:
            RuntimeError: The GPU has too little memory.
        """
        merged = {**self._snapshot.manifest.parameters, **(parameters or {})}
        wanted = k * max(1, merged.get("rerank", 1))
        # Number of candidates that a search with a selector returns.
        selector_candidates = min(wanted, usable_count)
        share = usable_count / len(usable)
        if share < _DROP_SHARE and not self._on_gpu:
            return self._best_candidates(queries, k, usable, merged, selector_candidates, usable)
        # FAISS is slower with a selector than without. So ask for more candidates than are needed,
        # and drop those that are not usable.
        limit = min(len(usable), GPU_MAX_K) if self._on_gpu else len(usable)
        candidates = min(int(wanted / share) + _EXTRA_CANDIDATES, limit)
        scores, positions = self._best_candidates(queries, k, usable, merged, candidates, None)
        too_few = (positions < 0).any(axis=1)
        if too_few.any() and share < 1 and not self._on_gpu:
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
        kind = self._snapshot.kind
        options, _referenced = search_parameters(kind, parameters, selector)
        scores, positions = self._index.search(queries, candidates, params=options)
        positions = np.where((positions >= 0) & usable[positions], positions, -1)
        if kind.rerank:
            scores = true_scores(queries, positions, self._snapshot.vectors)
        return select_top_k(np.where(positions >= 0, scores, -np.inf), positions, k)
