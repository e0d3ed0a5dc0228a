"""Indexes inside this process: how they are built, and how fast and how well they search.

Each is built with all cores and searched with one thread, as the server does it. A kind that keeps
less than the whole vectors scores its candidates again by those, as the server does, too.
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

from benchmarks.common.measure import in_turn, ratio
from benchmarks.search.data import Data, Pace
from benchmarks.search.libraries import BUILDERS, Parameters, Search
from lensemble.index.snapshots import faiss_index, kinds
from lensemble.index.snapshots.exact_search import select_top_k
from lensemble.index.snapshots.ground_truth import K
from lensemble.index.snapshots.kinds import KINDS, Kind
from lensemble.index.snapshots.tune import effort_steps

BATCHES = (1, 32)
_MAX_EFFORT = 512
_MAX_S = 6.0


@dataclass(frozen=True, slots=True)
class Built:
    """An index.

    Attributes:
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All of them.
        efforts: The parameters from quick to thorough.
        search: Searches it.
        index: The library's own object.
        build_s: Seconds that it took, with all cores.
        memory_mb: By its own account or by reckoning, in 10^6 bytes.
        resident_mb: By how much this process grew.
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
class Speed:
    """Calls one after another.

    Attributes:
        queries_per_s: Of all calls together.
        p50_ms: Of a call.
        p99_ms: Of a call.
    """

    queries_per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float], batch: int) -> Speed:
        """Sums up calls of `batch` queries, given the seconds that each took."""
        p50, p99 = np.percentile(seconds, (50, 99))
        return cls(
            round(batch * len(seconds) / sum(seconds), 1),
            round(1000 * float(p50), 3),
            round(1000 * float(p99), 3),
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One way to search one corpus, measured.

    Attributes:
        corpus: Its name.
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All of them.
        build_s: See `Built`.
        memory_mb: See `Built`.
        resident_mb: See `Built`.
        recall_at_10: Share of the true ten nearest that were found, of queries that are not in the
            corpus.
        b1: One query per call.
        b32: 32 queries per call.
    """

    corpus: str
    kind: str
    parameters: dict[str, int]
    build_s: float
    memory_mb: float
    resident_mb: float
    recall_at_10: float
    b1: Speed
    b32: Speed

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
    """How hard an index looks; None if it looks at everything.

    Args:
        kind: A name in `KINDS` or in `PEERS`.
        parameters: All of them.
    """
    return parameters.get(KINDS[kind].effort if kind in KINDS else kinds.HNSW.effort)


def build(name: str, vectors: NDArray[np.float32]) -> Built:
    """Builds an index with all cores.

    Args:
        name: In `KINDS` or in `PEERS`.
        vectors: (N, D) float32.

    Raises:
        ImportError: It is a peer that is not installed.
    """
    threads = len(os.sched_getaffinity(0))
    made = BUILDERS.get(name)
    before, began = _resident_bytes(), time.perf_counter()
    if made is None:
        kind = KINDS[name]
        parameters = kinds.complete_parameters(kind, {}, *vectors.shape)
        index = faiss_index.build_index(kind, vectors, parameters, threads)
        search = faiss_search(kind, index, vectors)
        size = kinds.memory_bytes(kind, parameters, *vectors.shape)
    else:
        kind = kinds.HNSW
        parameters = kinds.complete_parameters(kind, {}, *vectors.shape)
        index, search, size = made(vectors, parameters, threads)
    seconds = time.perf_counter() - began
    return Built(
        name,
        parameters,
        [
            one
            for one in effort_steps(kind, parameters, {})
            if (effort(name, one) or 0) <= _MAX_EFFORT
        ],
        search,
        index,
        round(seconds, 2),
        round(size / 1e6, 1),
        round(max(0, _resident_bytes() - before) / 1e6, 1),
    )


def faiss_search(kind: Kind, index: Any, vectors: NDArray[np.float32]) -> Search:
    """FAISS called directly, with one thread.

    Args:
        kind: Of the index.
        index: `faiss.Index` of the vectors.
        vectors: (N, D) float32, the whole ones, for kinds that keep less.
    """

    def search(queries: NDArray[np.float32], parameters: Parameters) -> NDArray[np.int64]:
        said, _kept = faiss_index.search_parameters(kind, parameters)
        wanted = K * max(1, parameters.get("rerank", 1))
        scores, at = index.search(queries, wanted, params=said)
        if kind.rerank:
            for n, positions in enumerate(at):
                scores[n] = np.where(positions >= 0, vectors[positions] @ queries[n], -np.inf)
            scores, at = select_top_k(scores, at, K)
        found: NDArray[np.int64] = at
        return found

    return search


def measure(data: Data, built: Built, pace: Pace) -> Iterator[Point]:
    """Measures an index at every effort, until it finds enough.

    Args:
        data: What it holds.
        built: The index.
        pace: How much to measure.
    """
    truth = data.truth
    for parameters in built.efforts:
        recall = truth.recall(built.search(truth.queries, parameters))
        b1, b32 = (
            speed(built.search, parameters, truth.queries, n, pace.direct_s) for n in BATCHES
        )
        yield Point(
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
        if recall >= pace.enough:
            return


def speed(
    search: Search,
    parameters: Parameters,
    queries: NDArray[np.float32],
    batch: int,
    window_s: float,
) -> Speed:
    """Times calls of one batch size for about `window_s`, longer if calls are slow.

    Args:
        search: What to time.
        parameters: For it.
        queries: (Q, D) float32; each call takes the next ones.
        batch: Queries per call.
        window_s: Seconds.
    """
    parts = batches(queries, batch)
    search(parts[0], parameters)
    seconds: list[float] = []
    least = 100 if batch == 1 else 10
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < window_s or len(seconds) < least:
        if seconds and spent > _MAX_S:
            break
        part = parts[len(seconds) % len(parts)]
        called = time.perf_counter()
        search(part, parameters)
        seconds.append(time.perf_counter() - called)
    return Speed.of(seconds, batch)


def batches(queries: NDArray[np.float32], size: int) -> list[NDArray[np.float32]]:
    """Queries (Q, D) in full batches; what is left over is left out."""
    return [queries[n : n + size] for n in range(0, len(queries) - size + 1, size)]


def speedups(
    exact: Built,
    others: Mapping[str, tuple[Built, Parameters]],
    queries: NDArray[np.float32],
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """How many times faster than exact search others are at batch 32, by turns.

    Args:
        exact: Exact search, with this project's settings of FAISS.
        others: Kind -> index, and how hard it is to look.
        queries: (Q, D) float32, for one turn.
        rounds: Timed rounds.

    Returns:
        Kind -> `speedup_over_exact` and its spread.
    """
    parts = batches(queries, 32)

    def through(built: Built, parameters: Parameters) -> Callable[[], object]:
        return lambda: [built.search(part, parameters) for part in parts]

    turns = {exact.kind: through(exact, exact.parameters)}
    turns |= {kind: through(built, parameters) for kind, (built, parameters) in others.items()}
    seconds = in_turn(turns, rounds)
    return {
        kind: ratio("speedup_over_exact", seconds[exact.kind], seconds[kind]) for kind in others
    }


def _resident_bytes() -> int:
    """Memory of this process that is no file's, after what can be given back was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    said = next(line for line in lines if line.startswith("RssAnon"))
    return 1024 * int(said.split()[1])
