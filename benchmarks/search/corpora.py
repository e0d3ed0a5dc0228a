"""Clustered vectors for search benchmarks, which resemble embeddings in what matters to an index.

They are a mixture of Gaussians. A few clusters have most of the vectors, and the spread is larger
in some directions than in others. A query's nearest neighbour has a cosine of about 0.74. Real
embeddings may need more search effort than these (docs/performance.md), so no default is derived
from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble.index.snapshots.ground_truth import GroundTruth

# Libraries that FAISS is compared with, by the names of their modules.
PEERS = ("hnswlib", "usearch")

# Name of the corpus of the demo's pictures (`demo_corpus.py`).
DEMO = "demo"

# Streams: parts of one mixture that have no vector in common.
VECTORS, QUERIES, WRITES = 1, 2, 3

_CENTRES = 0
_DECAY = 0.25  # direction j has a standard deviation of j^-0.25
_TAIL = 1.5  # of the Pareto distribution of the clusters' sizes
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class VectorCorpus:
    """Description of a set of clustered vectors.

    Attributes:
        name: Name in options and results.
        count: Number of vectors.
        dimension: Length D of the vectors.
        centres: Number of clusters.
        spread: Spread of a cluster, where the spread of the clusters' centres is 1.
    """

    name: str
    count: int
    dimension: int
    centres: int
    spread: float = 0.7

    def __str__(self) -> str:
        return f"{self.count:,} x {self.dimension:,}"


CORPORA = {
    corpus.name: corpus
    for corpus in (
        VectorCorpus("10k", 10_000, 256, 400),
        VectorCorpus("100k", 100_000, 256, 1000),
        VectorCorpus("1m", 1_000_000, 256, 4000),
        VectorCorpus("2kx2048", 2000, 2048, 100, 0.65),
        VectorCorpus("100kx2048", 100_000, 2048, 1000, 0.65),
    )
}


@dataclass(frozen=True, slots=True)
class CorpusWithQueries:
    """A corpus of vectors, queries, and the true nearest neighbours.

    Attributes:
        corpus: Description of the corpus.
        vectors: Vectors (N, D) float32, unit length.
        truth: Queries that are not in the corpus, and their nearest neighbours.
    """

    corpus: VectorCorpus
    vectors: NDArray[np.float32]
    truth: GroundTruth

    @classmethod
    def of(cls, corpus: VectorCorpus, queries: int) -> Self:
        """Draws vectors and queries, and searches exactly.

        Args:
            corpus: Description of the corpus.
            queries: Number of queries.
        """
        vectors = clustered(corpus, VECTORS, progress=True)
        return cls(
            corpus, vectors, GroundTruth.compute(vectors, clustered(corpus, QUERIES, queries))
        )


@dataclass(frozen=True, slots=True)
class MeasurementBudget:
    """How much is measured.

    Attributes:
        queries: Number of queries per corpus.
        rounds: Number of rounds of everything that is measured by turns.
        direct_s: Seconds for measuring one speed in this process.
        turn_s: Seconds of one side's turn.
        writing_s: Seconds of a turn of writing.
        enough: Recall from which on no more search effort is tried.
    """

    queries: int = 1024
    rounds: int = 5
    direct_s: float = 0.3
    turn_s: float = 0.8
    writing_s: float = 2.5
    enough: float = 0.998


def clustered(
    corpus: VectorCorpus, stream: int, count: int | None = None, progress: bool = False
) -> NDArray[np.float32]:
    """Draws vectors of a corpus's mixture.

    Args:
        corpus: Description of the mixture. The same corpus and stream give the same vectors.
        stream: `VECTORS`, `QUERIES` or `WRITES`.
        count: Number of vectors; None takes that of the corpus.
        progress: Whether to show a progress bar on standard error.

    Returns:
        Vectors (N, D) float32, unit length.
    """
    count = corpus.count if count is None else count
    scale = np.arange(1, corpus.dimension + 1, dtype=np.float32) ** -_DECAY
    rng = np.random.default_rng([corpus.dimension, _CENTRES])
    weights = 1 + rng.pareto(_TAIL, corpus.centres)
    centres = scale * rng.standard_normal((corpus.centres, corpus.dimension), dtype=np.float32)
    rng = np.random.default_rng([corpus.dimension, stream])
    clusters = rng.choice(corpus.centres, count, p=weights / weights.sum())
    vectors = np.empty((count, corpus.dimension), np.float32)
    with tqdm(desc=f"{corpus.name}: vectors", total=count, disable=not progress) as bar:
        for start in range(0, count, _CHUNK):
            part = vectors[start : start + _CHUNK]
            rng.standard_normal(out=part, dtype=np.float32)
            part *= corpus.spread * scale
            part += centres[clusters[start : start + _CHUNK]]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            bar.update(len(part))
    return vectors
