"""Builds the index that a plan asks for: chooses the kind, and the least effort for the recall.

The effort is doubled until the plan's recall is reached. Then it is bisected between the last two
values. Recall is measured on a sample of the corpus itself (`ground_truth`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import nearest_rows
from lensemble.index.snapshots.faiss_index import build_index, faiss_module
from lensemble.index.snapshots.ground_truth import GroundTruth, K, search_index
from lensemble.index.snapshots.kinds import (
    EXACT,
    IVF,
    IVF_PQ,
    IVF_SQ8,
    KINDS,
    Kind,
    complete_parameters,
    memory_bytes,
)
from lensemble.index.storage.index_plan import AUTO, IndexPlan

logger = logging.getLogger(__name__)

# Up to this number of vectors `auto` chooses exact search: 32 queries at 2,048 dimensions take a
# few tens of milliseconds on one core, and nothing has to be trained or measured.
EXACT_ROWS = 20_000
# With fewer vectors, the index is exact whatever kind the plan names: PQ cannot be trained on them,
# and other kinds would not be faster.
MIN_TRAINING_ROWS = 256
# Kinds that `auto` tries in this order, fastest and largest first. It takes the first one that fits
# the memory limit and reaches the recall.
PREFERENCE = (IVF, IVF_SQ8, IVF_PQ)
# Highest effort that is tried, by parameter. A `rerank` of 1,024 means 10,000 candidates for ten
# hits. For a corpus that needs more, a kind with more bits per vector is better.
_MAX_EFFORT = {"ef_search": 4096, "rerank": 1024}


@dataclass(frozen=True, slots=True)
class TunedIndex:
    """A FAISS index with the parameters to search it with.

    Attributes:
        kind: kind of the index.
        parameters: all parameters of the kind.
        index: `faiss.Index`.
        recall: measured recall at 10; 1 for exact search.
    """

    kind: Kind
    parameters: dict[str, int]
    index: Any = field(repr=False)
    recall: float = 1.0


def build_for_plan(plan: IndexPlan, vectors: NDArray[np.float32], threads: int = 1) -> TunedIndex:
    """Builds the index that a plan asks for.

    Args:
        plan: index plan.
        vectors: (N, D) float32, unit length.
        threads: number of threads to build with.

    Raises:
        InvalidInputError: The plan's parameters do not fit its kind.
    """
    count, dimension = vectors.shape
    if count < MIN_TRAINING_ROWS:
        return TunedIndex(EXACT, {}, build_index(EXACT, vectors, {}))
    if plan.kind != AUTO:
        return _build_tuned(KINDS[plan.kind], plan, vectors, threads)
    limit = plan.memory_bytes or float("inf")
    exact_fits = memory_bytes(EXACT, {}, count, dimension) <= limit
    if count <= EXACT_ROWS and exact_fits:
        return _build_tuned(EXACT, plan, vectors, threads)
    best: TunedIndex | None = None
    for kind in PREFERENCE:
        parameters = complete_parameters(kind, {}, count, dimension)
        is_last = kind is PREFERENCE[-1]
        if memory_bytes(kind, parameters, count, dimension) > limit and not is_last:
            continue
        tuned = _build_tuned(kind, plan, vectors, threads)
        if tuned.recall >= plan.recall and not (exact_fits and exact_is_faster(tuned, vectors)):
            return tuned
        if best is None or tuned.recall > best.recall:
            best = tuned
    if exact_fits:
        logger.info("no index that reaches a recall of %g is faster than exact search", plan.recall)
        return _build_tuned(EXACT, plan, vectors, threads)
    assert best is not None
    logger.warning(
        "no index within %d bytes reaches a recall of %g; the index is %s with a recall of %.4f: "
        "allow more memory, or ask for a lower recall",
        plan.memory_bytes,
        plan.recall,
        best.kind.name,
        best.recall,
    )
    return best


def _build_tuned(
    kind: Kind, plan: IndexPlan, vectors: NDArray[np.float32], threads: int
) -> TunedIndex:
    """Builds a kind of index, and finds the least effort that reaches the plan's recall."""
    fixed = plan.parameters if plan.kind != AUTO else {}
    parameters = complete_parameters(kind, fixed, *vectors.shape)
    index = build_index(kind, vectors, parameters, threads)
    if kind.exact:
        return TunedIndex(kind, parameters, index)
    truth = GroundTruth.compute(vectors)

    def measure(candidate: dict[str, int]) -> TunedIndex:
        recall = truth.recall(search_index(kind, index, vectors, truth, candidate))
        return TunedIndex(kind, candidate, index, recall)

    # Double the effort until the recall is reached. `too_low` is the last effort that did not reach
    # it; 0 if the first one did.
    tuned, too_low = TunedIndex(kind, parameters, index, 0.0), 0
    for candidate in effort_steps(kind, parameters, fixed):
        tuned = measure(candidate)
        if tuned.recall >= plan.recall or not kind.effort:
            break
        too_low = candidate[kind.effort]
    # Then bisect, until the effort is at most 25 % above one that is too low.
    while (
        tuned.recall >= plan.recall and too_low and tuned.parameters[kind.effort] > 1.25 * too_low
    ):
        between = (too_low + tuned.parameters[kind.effort]) // 2
        measured = measure({**parameters, kind.effort: between})
        if measured.recall >= plan.recall:
            tuned = measured
        elif between == too_low:
            break
        else:
            too_low = between
    logger.info("%s: recall@10 %.4f with %s", kind.name, tuned.recall, tuned.parameters)
    return tuned


def effort_steps(
    kind: Kind, parameters: dict[str, int], fixed: dict[str, int]
) -> Iterator[dict[str, int]]:
    """Parameters with doubling effort, fastest first.

    Args:
        kind: kind of the index.
        parameters: all parameters of the kind.
        fixed: parameters that the plan sets; if the effort is among them, there is one step.
    """
    if not kind.effort or kind.effort in fixed:
        yield parameters
        return
    highest = parameters["nlist"] if kind.has_lists else _MAX_EFFORT[kind.effort]
    effort = 1 if kind.has_lists else 16
    while effort < highest:
        yield {**parameters, kind.effort: effort}
        effort *= 2
    yield {**parameters, kind.effort: highest}


def exact_is_faster(tuned: TunedIndex, vectors: NDArray[np.float32]) -> bool:
    """Whether exact search answers 32 queries in one call faster than the index.

    If the neighbours of a query are spread over many lists, an IVF must read so many lists that a
    comparison with all vectors is faster.

    Args:
        tuned: index of the vectors.
        vectors: (N, D) float32.
    """
    faiss_module()
    truth = GroundTruth.compute(vectors[:32])
    positions = np.arange(len(vectors))
    times: list[tuple[float, float]] = []
    for _ in range(3):  # in turns, because other processes may slow down either of them
        started = time.perf_counter()
        nearest_rows(truth.queries, positions, vectors, K)
        between = time.perf_counter()
        search_index(tuned.kind, tuned.index, vectors, truth, tuned.parameters)
        times.append((between - started, time.perf_counter() - between))
    exact_s, index_s = np.median(times, axis=0)
    return bool(exact_s < index_s)
