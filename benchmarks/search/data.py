"""Clustered vectors for search benchmarks: what embeddings look like, as far as indexes care.

A mixture of Gaussians, a few of them with most of the vectors, and more of the spread in some
directions than in others. A query's nearest neighbour has a cosine of about 0.74. Real embeddings
may need more effort than these (docs/performance.md), so no effort is taken over from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble.index.snapshots.ground_truth import GroundTruth

PEERS = ("hnswlib", "usearch")
"""Libraries that FAISS is compared with; both names are those of their modules."""

DEMO = "demo"
"""A corpus of its own kind (`search_demo`)."""

VECTORS, QUERIES, WRITES = 1, 2, 3
"""Streams: parts of one mixture that have no vector in common."""

_CENTRES = 0
_DECAY = 0.25  # direction j has a standard deviation of j^-0.25
_TAIL = 1.5  # of the Pareto distribution of the clusters' sizes
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Corpus:
    """One set of vectors.

    Attributes:
        name: Word for it in options and results.
        count: Of vectors.
        dimension: Of each.
        centres: Of clusters.
        spread: Of a cluster, where the distance between clusters is 1.
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
        Corpus("10k", 10_000, 256, 400),
        Corpus("100k", 100_000, 256, 1000),
        Corpus("1m", 1_000_000, 256, 4000),
        Corpus("2kx2048", 2000, 2048, 100, 0.65),
        Corpus("100kx2048", 100_000, 2048, 1000, 0.65),
    )
}


@dataclass(frozen=True, slots=True)
class Data:
    """A corpus and questions to it.

    Attributes:
        corpus: What it is.
        vectors: (N, D) float32, unit length.
        truth: Queries that are not in it, and what is nearest to them.
    """

    corpus: Corpus
    vectors: NDArray[np.float32]
    truth: GroundTruth

    @classmethod
    def of(cls, corpus: Corpus, queries: int) -> Self:
        """Draws them, and searches exactly.

        Args:
            corpus: What it is.
            queries: How many.
        """
        vectors = clustered(corpus, VECTORS, progress=True)
        return cls(
            corpus, vectors, GroundTruth.compute(vectors, clustered(corpus, QUERIES, queries))
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        queries: Per corpus.
        rounds: Of everything that is measured by turns.
        direct_s: Seconds for one speed.
        turn_s: Seconds of one side's turn.
        writing_s: Seconds of a turn of writing.
        enough: Recall at which more effort is of no interest.
    """

    queries: int = 1024
    rounds: int = 5
    direct_s: float = 0.3
    turn_s: float = 0.8
    writing_s: float = 2.5
    enough: float = 0.998


def clustered(
    corpus: Corpus, stream: int, count: int | None = None, progress: bool = False
) -> NDArray[np.float32]:
    """Draws vectors of a corpus's mixture.

    Args:
        corpus: Its mixture. The same corpus and stream give the same vectors.
        stream: `VECTORS`, `QUERIES` or `WRITES`.
        count: How many; None takes the corpus's.
        progress: Whether to show a progress bar on standard error.

    Returns:
        (N, D) float32, unit length.
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
