"""Which kind of index, and how hard it must look: measured on the corpus, against exact search.

Recall depends on the vectors (synthetic ones flatter IVF), so none is taken from a table: a sample
of the corpus's own vectors, or given queries, is searched exactly and by the index. A vector that
stands in the corpus is not counted as its own neighbour. Effort doubles until the target is met,
then goes back halfway towards the last that missed it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact import best, nearest
from lensemble.index.snapshots.kinds import (
    EXACT,
    IVF,
    IVF_PQ,
    IVF_SQ8,
    KINDS,
    Kind,
    build,
    checked,
    faiss_module,
    memory_bytes,
    search_parameters,
)
from lensemble.index.storage.index_plan import AUTO, IndexPlan

logger = logging.getLogger(__name__)

K = 10
SAMPLE = 512
EXACT_ROWS = 20_000
"""Up to here `auto` takes exact search: 32 queries at 2,048 dimensions stay within a few tens of
milliseconds on one core, and nothing has to be trained or measured."""
TRAINED_ROWS = 256
"""Below, every kind is exact: PQ cannot be trained with less, and nothing is to be gained."""
PREFERENCE = (IVF, IVF_SQ8, IVF_PQ)
"""Of `auto`, fastest and largest first: taken is the first that fits and meets the target."""
_MOST = {"ef_search": 4096, "rerank": 1024}
"""Effort -> where trying ends. 1,024 are ten thousand candidates for ten hits; who needs more is
better off with more bits."""
_LEAST_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class TunedIndex:
    """A FAISS index, and how it is to be searched.

    Attributes:
        kind: Of what kind.
        parameters: Of the kind, in full.
        index: `faiss.Index`.
        recall: At 10, measured; 1 if exact.
    """

    kind: Kind
    parameters: dict[str, int]
    index: Any = field(repr=False)
    recall: float = 1.0


@dataclass(frozen=True, slots=True)
class SearchMeasurement:
    """One way to search, measured.

    Attributes:
        kind: Name of the kind.
        parameters: In full.
        recall_at_10: Share of the true ten nearest that were found.
        ms_1: Milliseconds for one query alone, median.
        ms_32: Milliseconds for 32 queries in one call, median.
        memory_bytes: Of the index, about.
        build_s: Seconds that it took to build.
    """

    kind: str
    parameters: dict[str, int]
    recall_at_10: float
    ms_1: float
    ms_32: float
    memory_bytes: int
    build_s: float


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Queries with what exact search finds for them.

    Attributes:
        queries: (Q, D) float32.
        neighbours: (Q, 10) int64, positions; fewer columns in a small corpus.
        own: (Q,) int64, the position where a query itself stands; -1 if it does not.
    """

    queries: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    own: NDArray[np.int64]

    @classmethod
    def of(
        cls, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None = None
    ) -> GroundTruth:
        """Searches exactly.

        Args:
            vectors: (N, D) float32, the corpus.
            queries: (Q, D) float32, such as are asked; None takes a sample of the corpus.
        """
        positions = np.arange(len(vectors))
        if queries is not None:
            _, found = nearest(queries, positions, vectors, K)
            return cls(queries, found, np.full(len(queries), -1))
        own = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE]
        scores, found = nearest(vectors[own], positions, vectors, K + 1)
        return cls(vectors[own], _without(own, scores, found)[1], own)

    def recall(self, found: NDArray[np.int64]) -> float:
        """Share of the true neighbours among those found, (Q, k) int64; 1 if there are none."""
        if not self.neighbours.size:
            return 1.0
        hit = (self.neighbours[:, :, None] == found[:, None, :]).any(axis=2)
        return float(hit.mean())


def make(plan: IndexPlan, vectors: NDArray[np.float32], threads: int = 1) -> TunedIndex:
    """Builds the index that a plan asks for.

    Args:
        plan: What is asked for.
        vectors: (N, D) float32, unit length.
        threads: To build with.

    Raises:
        InvalidInputError: The plan's parameters do not fit its kind.
    """
    count, dimension = vectors.shape
    if count < TRAINED_ROWS:
        return TunedIndex(EXACT, {}, build(EXACT, vectors, {}))
    if plan.kind != AUTO:
        return _tuned(KINDS[plan.kind], plan, vectors, threads)
    limit = plan.memory_bytes or float("inf")
    exact_fits = memory_bytes(EXACT, {}, count, dimension) <= limit
    if count <= EXACT_ROWS and exact_fits:
        return _tuned(EXACT, plan, vectors, threads)
    nearly: TunedIndex | None = None
    for kind in PREFERENCE:
        parameters = checked(kind, {}, count, dimension)
        last = kind is PREFERENCE[-1]
        if memory_bytes(kind, parameters, count, dimension) > limit and not last:
            continue
        tuned = _tuned(kind, plan, vectors, threads)
        if tuned.recall >= plan.recall and not (exact_fits and exact_is_faster(tuned, vectors)):
            return tuned
        if nearly is None or tuned.recall > nearly.recall:
            nearly = tuned
    if exact_fits:
        logger.info("no index that reaches a recall of %g is faster than exact search", plan.recall)
        return _tuned(EXACT, plan, vectors, threads)
    assert nearly is not None
    logger.warning(
        "no index within %d bytes reaches a recall of %g; taken is %s with %.4f: give it more "
        "memory, or ask for less",
        plan.memory_bytes,
        plan.recall,
        nearly.kind.name,
        nearly.recall,
    )
    return nearly


def _tuned(kind: Kind, plan: IndexPlan, vectors: NDArray[np.float32], threads: int) -> TunedIndex:
    """Builds a kind, and raises its effort until the plan's recall is just met."""
    given = plan.parameters if plan.kind != AUTO else {}
    parameters = checked(kind, given, *vectors.shape)
    index = build(kind, vectors, parameters, threads)
    if kind.exact:
        return TunedIndex(kind, parameters, index)
    truth = GroundTruth.of(vectors)

    def measured(tried: dict[str, int]) -> TunedIndex:
        recall = truth.recall(found(kind, index, vectors, truth, tried))
        return TunedIndex(kind, tried, index, recall)

    tuned, least = TunedIndex(kind, parameters, index, 0.0), 0
    for tried in efforts(kind, parameters, given):
        tuned = measured(tried)
        if tuned.recall >= plan.recall or not kind.effort:
            break
        least = tried[kind.effort]
    while tuned.recall >= plan.recall and least and tuned.parameters[kind.effort] > 1.25 * least:
        between = (least + tuned.parameters[kind.effort]) // 2
        if (closer := measured({**parameters, kind.effort: between})).recall >= plan.recall:
            tuned = closer
        elif between == least:
            break
        else:
            least = between
    logger.info("%s: recall@10 %.4f with %s", kind.name, tuned.recall, tuned.parameters)
    return tuned


def exact_is_faster(tuned: TunedIndex, vectors: NDArray[np.float32]) -> bool:
    """Whether 32 queries in one call are answered sooner by comparing with every vector.

    Where neighbours are spread over many lists, enough of them take longer than all at once.

    Args:
        tuned: An index of the vectors, and how hard it must look.
        vectors: (N, D) float32.
    """
    faiss_module()
    truth = GroundTruth.of(vectors[:32])
    positions = np.arange(len(vectors))
    times: list[tuple[float, float]] = []
    for _ in range(3):  # by turns, as others may be at work
        began = time.perf_counter()
        nearest(truth.queries, positions, vectors, K)
        between = time.perf_counter()
        found(tuned.kind, tuned.index, vectors, truth, tuned.parameters)
        times.append((between - began, time.perf_counter() - between))
    exact_s, index_s = np.median(times, axis=0)
    return bool(exact_s < index_s)


def efforts(
    kind: Kind, parameters: dict[str, int], given: dict[str, int]
) -> Iterator[dict[str, int]]:
    """Parameters from quick to thorough.

    Args:
        kind: Of what kind.
        parameters: In full.
        given: Those that are fixed.
    """
    if not kind.effort or kind.effort in given:
        yield parameters
        return
    most = parameters["nlist"] if kind.has_lists else _MOST[kind.effort]
    effort = 1 if kind.has_lists else 16
    while effort < most:
        yield {**parameters, kind.effort: effort}
        effort *= 2
    yield {**parameters, kind.effort: most}


def found(
    kind: Kind,
    index: Any,
    vectors: NDArray[np.float32],
    truth: GroundTruth,
    parameters: dict[str, int],
) -> NDArray[np.int64]:
    """What an index finds for the queries, re-ranked as in serving, (Q, 10) int64."""
    params, _kept = search_parameters(kind, parameters)
    wanted = min((K + 1) * max(1, parameters.get("rerank", 1)), len(vectors))
    scores, at = index.search(truth.queries, wanted, params=params)
    if kind.rerank:
        for n, positions in enumerate(at):
            scores[n] = np.where(positions >= 0, vectors[positions] @ truth.queries[n], -np.inf)
    scores, at = best(scores, at, min(K + 1, at.shape[1]))
    return _without(truth.own, scores, at)[1]


def measure(
    vectors: NDArray[np.float32],
    kinds: Sequence[Kind],
    queries: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> Iterator[SearchMeasurement]:
    """Builds kinds and measures each at every effort: what `lensemble index tune` shows.

    Args:
        vectors: (N, D) float32, the corpus.
        kinds: To be built.
        queries: (Q, D) float32, such as are asked; None takes a sample of the corpus.
        threads: To build with; searches take one.
    """
    truth = GroundTruth.of(vectors, queries)
    for kind in kinds:
        parameters = checked(kind, {}, *vectors.shape)
        began = time.perf_counter()
        index = build(kind, vectors, parameters, threads)
        build_s = time.perf_counter() - began
        for tried in efforts(kind, parameters, {}):
            recall = truth.recall(found(kind, index, vectors, truth, tried))
            yield SearchMeasurement(
                kind.name,
                tried,
                recall,
                _ms(kind, index, vectors, truth, tried, 1),
                _ms(kind, index, vectors, truth, tried, 32),
                memory_bytes(kind, tried, *vectors.shape),
                build_s,
            )
            if recall >= 1:
                break


def _ms(
    kind: Kind,
    index: Any,
    vectors: NDArray[np.float32],
    truth: GroundTruth,
    parameters: dict[str, int],
    batch: int,
) -> float:
    """Median milliseconds of a call, over some tenths of a second."""
    faiss_module()
    times: list[float] = []
    start, began = 0, time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < _LEAST_SECONDS:
        at = np.arange(start, start + batch) % len(truth.queries)
        part = GroundTruth(truth.queries[at], truth.neighbours[at], truth.own[at])
        called = time.perf_counter()
        found(kind, index, vectors, part, parameters)
        times.append(time.perf_counter() - called)
        start += batch
    return 1000 * float(np.median(times))


def _without(
    own: NDArray[np.int64], scores: NDArray[np.float32], at: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The first ten without the query itself."""
    itself = at == own[:, None]
    scores = np.where(itself, -np.inf, scores)
    at = np.where(itself, -1, at)
    columns = at.shape[1] - int((own >= 0).any())
    return best(scores, at, max(0, min(K, columns)))
