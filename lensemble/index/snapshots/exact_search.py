"""Exact search among vectors in memory, true scores of candidates, and merging of results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.faiss_index import faiss_module

# Scores (B, k) float32 and rows (B, k) int64, best first; -inf and -1 where there are fewer than k.
ScoredRows = tuple[NDArray[np.float32], NDArray[np.int64]]


def nearest_rows(
    queries: NDArray[np.float32], rows: NDArray[np.int64], vectors: NDArray[np.float32], k: int
) -> ScoredRows:
    """The k nearest rows for each query, by comparing it with every vector.

    Args:
        queries: (B, D) float32.
        rows: (N,) int64, row numbers of `vectors`.
        vectors: (N, D) float32.
        k: maximum number of rows per query; with fewer vectors the result has fewer columns.
    """
    k = min(k, len(rows))
    if not k:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    faiss = faiss_module()
    scores, positions = faiss.knn(
        np.ascontiguousarray(queries, np.float32),
        np.ascontiguousarray(vectors),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return scores, np.where(positions >= 0, rows[positions], -1)


def true_scores(
    queries: NDArray[np.float32], positions: NDArray[np.int64], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores of candidates from the full-precision vectors.

    Args:
        queries: (B, D) float32.
        positions: (B, k) int64, positions of each query's candidates in `vectors`.
        vectors: (N, D) float32.

    Returns:
        (B, k) float32; the value is arbitrary where the position is -1.
    """
    scores = np.empty(positions.shape, np.float32)
    for query, candidates in enumerate(positions):
        scores[query] = vectors[candidates] @ queries[query]
    return scores


def merge_top_k(parts: list[ScoredRows], k: int) -> ScoredRows:
    """The best k of several results for the same queries; fewer columns if they have fewer."""
    scores = np.concatenate([scores for scores, _ in parts], axis=1)
    rows = np.concatenate([rows for _, rows in parts], axis=1)
    return select_top_k(scores, rows, min(k, scores.shape[1]))


def select_top_k(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> ScoredRows:
    """The k highest scores of each query, best first; among equal scores, the lowest row first.

    Args:
        scores: (B, N) float32.
        rows: (B, N) int64.
        k: number of columns of the result; missing ones are filled with -inf and -1.
    """
    missing = k - scores.shape[1]
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
