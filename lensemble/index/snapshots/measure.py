"""Measures kinds of index on a corpus, for `lensemble index tune`: recall, speed and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.faiss_index import build_index, faiss_module
from lensemble.index.snapshots.ground_truth import GroundTruth, search_index
from lensemble.index.snapshots.kinds import Kind, complete_parameters, memory_bytes
from lensemble.index.snapshots.tune import effort_steps

# A search is timed over at least this many seconds and calls.
_MIN_SECONDS = 0.2
_MIN_CALLS = 3


@dataclass(frozen=True, slots=True)
class SearchMeasurement:
    """Figures of one kind of index at one effort.

    Attributes:
        kind: name of the kind.
        parameters: all parameters of the kind.
        recall_at_10: share of the true ten nearest neighbours that were found.
        ms_1: median milliseconds for a call with one query.
        ms_32: median milliseconds for a call with 32 queries.
        memory_bytes: approximate memory of the index.
        build_s: seconds that building the index took.
    """

    kind: str
    parameters: dict[str, int]
    recall_at_10: float
    ms_1: float
    ms_32: float
    memory_bytes: int
    build_s: float


def measure_kinds(
    vectors: NDArray[np.float32],
    kinds: Sequence[Kind],
    queries: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> Iterator[SearchMeasurement]:
    """Builds kinds of index and measures each one with increasing effort, until its recall is 1.

    Args:
        vectors: (N, D) float32, the corpus.
        kinds: kinds to measure.
        queries: (Q, D) float32, typical queries; None takes a sample of the corpus.
        threads: number of threads to build with; searches take one.
    """
    truth = GroundTruth.compute(vectors, queries)
    for kind in kinds:
        defaults = complete_parameters(kind, {}, *vectors.shape)
        started = time.perf_counter()
        index = build_index(kind, vectors, defaults, threads)
        build_s = time.perf_counter() - started
        for parameters in effort_steps(kind, defaults, {}):
            recall = truth.recall(search_index(kind, index, vectors, truth, parameters))
            yield SearchMeasurement(
                kind.name,
                parameters,
                recall,
                _median_ms(kind, index, vectors, truth, parameters, 1),
                _median_ms(kind, index, vectors, truth, parameters, 32),
                memory_bytes(kind, parameters, *vectors.shape),
                build_s,
            )
            if recall >= 1:
                break


def _median_ms(
    kind: Kind,
    index: Any,
    vectors: NDArray[np.float32],
    truth: GroundTruth,
    parameters: dict[str, int],
    batch: int,
) -> float:
    """Median milliseconds of a call with `batch` queries, over at least 0.2 s and three calls."""
    faiss_module()
    times: list[float] = []
    first_query, started = 0, time.perf_counter()
    while len(times) < _MIN_CALLS or time.perf_counter() - started < _MIN_SECONDS:
        chosen = np.arange(first_query, first_query + batch) % len(truth.queries)
        part = GroundTruth(
            truth.queries[chosen], truth.neighbours[chosen], truth.own_positions[chosen]
        )
        called = time.perf_counter()
        search_index(kind, index, vectors, part, parameters)
        times.append(time.perf_counter() - called)
        first_query += batch
    return 1000 * float(np.median(times))
