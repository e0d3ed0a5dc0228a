"""Exact search among vectors in memory, and merging of several answers to the same queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.kinds import faiss_module

ScoredRows = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows, (B, k) each, best first; where there are fewer than k, -inf and -1."""


def nearest(
    queries: NDArray[np.float32], rows: NDArray[np.int64], vectors: NDArray[np.float32], k: int
) -> ScoredRows:
    """Exact search among some vectors.

    Args:
        queries: (B, D) float32.
        rows: (N,) int64.
        vectors: (N, D) float32.
        k: How many at most.
    """
    k = min(k, len(rows))
    if not k:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    faiss = faiss_module()
    scores, at = faiss.knn(
        np.ascontiguousarray(queries, np.float32),
        np.ascontiguousarray(vectors),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return scores, np.where(at >= 0, rows[at], -1)


def merged(parts: list[ScoredRows], k: int) -> ScoredRows:
    """The best k of several answers to the same queries."""
    scores = np.concatenate([scores for scores, _ in parts], axis=1)
    rows = np.concatenate([rows for _, rows in parts], axis=1)
    return best(scores, rows, min(k, scores.shape[1]))


def best(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> ScoredRows:
    """The k highest of each line (B, N), best first; filled up with -inf and -1 to k columns."""
    lacking = k - scores.shape[1]
    if lacking > 0:
        scores = np.pad(scores, ((0, 0), (0, lacking)), constant_values=-np.inf)
        rows = np.pad(rows, ((0, 0), (0, lacking)), constant_values=-1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
