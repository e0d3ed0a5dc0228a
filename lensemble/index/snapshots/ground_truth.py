"""Recall: how many of the true nearest neighbours an index finds.

Recall depends on the vectors: on synthetic vectors it is too high, above all for IVF. So it is
always measured on the corpus, by comparing the index's results with those of exact search. A query
that is itself a vector of the corpus does not count as its own neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import nearest_rows, select_top_k, true_scores
from lensemble.index.snapshots.faiss_index import search_parameters
from lensemble.index.snapshots.kinds import Kind

K = 10  # number of neighbours of a query that recall is computed from
_SAMPLE_QUERIES = 512  # number of corpus vectors that are used as queries


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Queries with their true nearest neighbours.

    Attributes:
        queries: (Q, D) float32.
        neighbours: (Q, 10) int64, positions in the corpus; a small corpus gives fewer columns.
        own_positions: (Q,) int64, position of the query itself in the corpus; -1 if the query is
            not a vector of the corpus.
    """

    queries: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    own_positions: NDArray[np.int64]

    @classmethod
    def compute(
        cls, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None = None
    ) -> GroundTruth:
        """Finds the true neighbours by exact search.

        Args:
            vectors: (N, D) float32, the corpus.
            queries: (Q, D) float32, typical queries; None takes a sample of 512 vectors of the
                corpus.
        """
        positions = np.arange(len(vectors))
        if queries is not None:
            _, neighbours = nearest_rows(queries, positions, vectors, K)
            return cls(queries, neighbours, np.full(len(queries), -1))
        sample = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE_QUERIES]
        scores, neighbours = nearest_rows(vectors[sample], positions, vectors, K + 1)
        return cls(vectors[sample], _without_own(sample, scores, neighbours), sample)

    def recall(self, positions: NDArray[np.int64]) -> float:
        """Share of the true neighbours among the found positions, (Q, k) int64.

        It is 1 if there are no true neighbours.
        """
        if not self.neighbours.size:
            return 1.0
        found = (self.neighbours[:, :, None] == positions[:, None, :]).any(axis=2)
        return float(found.mean())


def search_index(
    kind: Kind,
    index: Any,
    vectors: NDArray[np.float32],
    truth: GroundTruth,
    parameters: dict[str, int],
) -> NDArray[np.int64]:
    """Searches an index for all queries, with the same re-ranking as in serving.

    Args:
        kind: kind of the index.
        index: `faiss.Index` of the vectors.
        vectors: (N, D) float32, the corpus.
        truth: queries to search for; the search does not use their true neighbours.
        parameters: all parameters of the kind.

    Returns:
        (Q, 10) int64, positions, best first; -1 where there are fewer.
    """
    faiss_parameters, _referenced = search_parameters(kind, parameters)
    candidates = min((K + 1) * max(1, parameters.get("rerank", 1)), len(vectors))
    scores, positions = index.search(truth.queries, candidates, params=faiss_parameters)
    if kind.rerank:
        exact_scores = true_scores(truth.queries, positions, vectors)
        scores = np.where(positions >= 0, exact_scores, -np.inf)
    scores, positions = select_top_k(scores, positions, min(K + 1, positions.shape[1]))
    return _without_own(truth.own_positions, scores, positions)


def _without_own(
    own_positions: NDArray[np.int64], scores: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The first ten positions without the query itself; (Q, 10) from (Q, 11)."""
    is_own = positions == own_positions[:, None]
    scores = np.where(is_own, -np.inf, scores)
    positions = np.where(is_own, -1, positions)
    columns = positions.shape[1] - int((own_positions >= 0).any())
    return select_top_k(scores, positions, max(0, min(K, columns)))[1]
