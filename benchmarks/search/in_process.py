"""Measures indexes inside this process: time to build, memory, speed and recall.

Each index is built with all cores and searched with one thread, as the server does it. A kind that
stores compressed vectors rescores its candidates with the full-precision vectors, as the server
does too.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.timing import ratio, time_in_turn
from benchmarks.search.corpora import CorpusWithQueries, MeasurementBudget
from benchmarks.search.peer_libraries import BUILDERS, Parameters, Search
from lensemble.index.snapshots import faiss_index, kinds
from lensemble.index.snapshots.exact_search import select_top_k, true_scores
from lensemble.index.snapshots.ground_truth import K
from lensemble.index.snapshots.kinds import KINDS, Kind
from lensemble.index.snapshots.tune import effort_steps

# Numbers of queries per call.
BATCHES = (1, 32)
_MAX_EFFORT = 512
# Largest number of seconds for one speed; see `speed`.
_MAX_S = 6.0


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index that was built in this process.

    Attributes:
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All parameters of the index.
        efforts: Parameters from the quickest to the most thorough search.
        search: Function that searches the index.
        index: The library's own object.
        build_s: Seconds of building, with all cores.
        memory_mb: Memory that the library reports, or an estimate, in 10^6 bytes.
        resident_mb: Memory by which this process grew, in 10^6 bytes.
    """

    kind: str
    parameters: dict[str, int]
    efforts: Sequence[dict[str, int]]
    search: Search = field(repr=False)
    index: Any = field(repr=False)
    build_s: float
    memory_mb: float
    resident_mb: float


@dataclass(frozen=True, slots=True)
class CallSpeed:
    """Speed of calls that were made one after another.

    Attributes:
        queries_per_s: Queries per second over all calls.
        p50_ms: Median milliseconds of a call.
        p99_ms: 99th percentile of the milliseconds of a call.
    """

    queries_per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float], batch: int) -> CallSpeed:
        """Summarizes the seconds of calls, each of `batch` queries."""
        p50, p99 = np.percentile(seconds, (50, 99))
        return cls(
            round(batch * len(seconds) / sum(seconds), 1),
            round(1000 * float(p50), 3),
            round(1000 * float(p99), 3),
        )


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One index at one search effort, measured on one corpus.

    Attributes:
        corpus: Name of the corpus.
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All parameters of the index and the search.
        build_s: See `BuiltIndex`.
        memory_mb: See `BuiltIndex`.
        resident_mb: See `BuiltIndex`.
        recall_at_10: Share of the true ten nearest neighbours that were found.
        b1: Speed with one query per call.
        b32: Speed with 32 queries per call.
    """

    corpus: str
    kind: str
    parameters: dict[str, int]
    build_s: float
    memory_mb: float
    resident_mb: float
    recall_at_10: float
    b1: CallSpeed
    b32: CallSpeed

    HEAD = (
        f"{'corpus':10} {'kind':8} {'effort':>6} {'build s':>8} {'MB':>7} {'grew MB':>8} "
        f"{'recall@10':>9} {'q/s b1':>9} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'q/s b32':>9} {'p50 ms':>8} {'p99 ms':>8}"
    )

    def __str__(self) -> str:
        return (
            f"{self.corpus:10} {self.kind:8} {effort(self.kind, self.parameters) or '':>6} "
            f"{self.build_s:8.1f} {self.memory_mb:7.0f} {self.resident_mb:8.0f} "
            f"{self.recall_at_10:9.4f} {self.b1.queries_per_s:9.0f} {self.b1.p50_ms:8.2f} "
            f"{self.b1.p99_ms:8.2f} {self.b32.queries_per_s:9.0f} {self.b32.p50_ms:8.2f} "
            f"{self.b32.p99_ms:8.2f}"
        )


def effort(kind: str, parameters: Parameters) -> int | None:
    """Returns the value of the parameter for search effort; None for exact search.

    The peers are HNSW graphs, so their parameter is that of HNSW.

    Args:
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All parameters.
    """
    return parameters.get(KINDS[kind].effort if kind in KINDS else kinds.HNSW.effort)


def build(name: str, vectors: NDArray[np.float32]) -> BuiltIndex:
    """Builds an index with all cores.

    Args:
        name: A name in `KINDS` or in `PEERS`.
        vectors: Vectors (N, D) float32.

    Raises:
        ImportError: A peer is not installed.
    """
    threads = len(os.sched_getaffinity(0))
    build_peer = BUILDERS.get(name)
    before, began = _resident_bytes(), time.perf_counter()
    if build_peer is None:
        kind = KINDS[name]
        parameters = kinds.complete_parameters(kind, {}, *vectors.shape)
        index = faiss_index.build_index(kind, vectors, parameters, threads)
        search = faiss_search(kind, index, vectors)
        size = kinds.memory_bytes(kind, parameters, *vectors.shape)
    else:
        kind = kinds.HNSW
        parameters = kinds.complete_parameters(kind, {}, *vectors.shape)
        index, search, size = build_peer(vectors, parameters, threads)
    seconds = time.perf_counter() - began
    return BuiltIndex(
        name,
        parameters,
        [p for p in effort_steps(kind, parameters, {}) if (effort(name, p) or 0) <= _MAX_EFFORT],
        search,
        index,
        round(seconds, 2),
        round(size / 1e6, 1),
        round(max(0, _resident_bytes() - before) / 1e6, 1),
    )


def faiss_search(kind: Kind, index: Any, vectors: NDArray[np.float32]) -> Search:
    """Returns a function that searches a FAISS index with one thread.

    Args:
        kind: Kind of the index.
        index: `faiss.Index` of the vectors.
        vectors: Full-precision vectors (N, D) float32, for kinds that store compressed vectors.
    """

    def search(queries: NDArray[np.float32], parameters: Parameters) -> NDArray[np.int64]:
        # FAISS keeps no reference to `_referenced`, which must live until the search has ended.
        faiss_parameters, _referenced = faiss_index.search_parameters(kind, parameters)
        count = K * max(1, parameters.get("rerank", 1))
        scores, positions = index.search(queries, count, params=faiss_parameters)
        if kind.rerank:
            exact_scores = true_scores(queries, positions, vectors)
            scores = np.where(positions >= 0, exact_scores, -np.inf)
            scores, positions = select_top_k(scores, positions, K)
        nearest: NDArray[np.int64] = positions
        return nearest

    return search


def measure(
    data: CorpusWithQueries, built: BuiltIndex, budget: MeasurementBudget
) -> Iterator[OperatingPoint]:
    """Measures an index at rising efforts, until its recall is high enough.

    Args:
        data: Corpus in the index.
        built: The index.
        budget: How much to measure.
    """
    truth = data.truth
    for parameters in built.efforts:
        recall = truth.recall(built.search(truth.queries, parameters))
        b1, b32 = (
            speed(built.search, parameters, truth.queries, n, budget.direct_s) for n in BATCHES
        )
        yield OperatingPoint(
            data.corpus.name,
            built.kind,
            parameters,
            built.build_s,
            built.memory_mb,
            built.resident_mb,
            round(recall, 4),
            b1,
            b32,
        )
        if recall >= budget.enough:
            return


def speed(
    search: Search,
    parameters: Parameters,
    queries: NDArray[np.float32],
    batch: int,
    window_s: float,
) -> CallSpeed:
    """Times calls of one batch size for `window_s`, or longer if they are slow.

    It goes on until there are 100 calls with one query, or 10 with several, but not after `_MAX_S`.

    Args:
        search: Function to time.
        parameters: Search parameters.
        queries: Queries (Q, D) float32; each call takes the next ones.
        batch: Number of queries per call.
        window_s: Smallest number of seconds to measure.
    """
    parts = batches(queries, batch)
    search(parts[0], parameters)
    seconds: list[float] = []
    min_calls = 100 if batch == 1 else 10
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < window_s or len(seconds) < min_calls:
        if seconds and spent > _MAX_S:
            break
        part = parts[len(seconds) % len(parts)]
        called = time.perf_counter()
        search(part, parameters)
        seconds.append(time.perf_counter() - called)
    return CallSpeed.of(seconds, batch)


def batches(queries: NDArray[np.float32], size: int) -> list[NDArray[np.float32]]:
    """Splits queries (Q, D) into full batches; the rest is left out."""
    return [queries[n : n + size] for n in range(0, len(queries) - size + 1, size)]


def speedups(
    exact: BuiltIndex,
    others: Mapping[str, tuple[BuiltIndex, Parameters]],
    queries: NDArray[np.float32],
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Measures by turns how many times faster than exact search other indexes are at batch 32.

    Args:
        exact: Exact index, with this project's settings of FAISS.
        others: Kind -> index and its search parameters.
        queries: Queries (Q, D) float32 of one turn.
        rounds: Number of timed rounds.

    Returns:
        Kind -> `speedup_over_exact` and its spread.
    """
    parts = batches(queries, 32)

    def search_all(built: BuiltIndex, parameters: Parameters) -> Callable[[], object]:
        return lambda: [built.search(part, parameters) for part in parts]

    turns = {exact.kind: search_all(exact, exact.parameters)}
    turns |= {kind: search_all(built, parameters) for kind, (built, parameters) in others.items()}
    seconds = time_in_turn(turns, rounds)
    return {
        kind: ratio("speedup_over_exact", seconds[exact.kind], seconds[kind]) for kind in others
    }


def _resident_bytes() -> int:
    """Returns this process's anonymous memory in bytes, after freed memory was released."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(line for line in lines if line.startswith("RssAnon"))
    return 1024 * int(anonymous.split()[1])
