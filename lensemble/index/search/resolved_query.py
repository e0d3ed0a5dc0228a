"""Queries with everything that they need from the store, and how a batch of them is searched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensemble.index.checks import check_vector
from lensemble.index.query import Query
from lensemble.index.search.filter_cache import FilterRows
from lensemble.index.search.index_state import IndexState
from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError, LensembleError, NotFoundError

ScoreAndRow = tuple[float, int]


@dataclass(frozen=True, slots=True)
class ResolvedQuery:
    """A query with everything that it needs from the store.

    Attributes:
        query: the query.
        vector: (D,) float32.
        excluded: rows that must not be returned.
        matching: rows that match the query's filter; None without a filter.
    """

    query: Query
    vector: NDArray[np.float32]
    excluded: frozenset[int]
    matching: FilterRows | None


def resolve(
    store: Store, query: Query, matching: FilterRows | LensembleError | None
) -> ResolvedQuery | LensembleError:
    """Reads from the store what a query needs.

    Args:
        store: the index's store.
        query: the query.
        matching: rows that match the query's filter, or the filter's error; None without a filter.

    Returns:
        The resolved query, or the query's own error: that of its filter, NotFoundError if there
        is no item `query.like`, InvalidInputError if its vector has another dimension than the
        store.

    Raises:
        StorageError: The store is damaged.
    """
    if isinstance(matching, LensembleError):
        return matching
    vector, excluded_ids = query.vector, list(query.exclude)
    if query.like:
        (item,) = store.get([query.like])
        if item is None:
            return NotFoundError(f"no item {query.like!r} in the index", field="like")
        vector = item.vector
        excluded_ids.append(query.like)
    assert vector is not None  # a query without `like` has a vector
    try:
        check_vector(store.dimension, vector)
    except InvalidInputError as error:
        # The stage has checked the vector, but the index may have been replaced since then.
        return error
    excluded: frozenset[int] = frozenset()
    if excluded_ids:
        excluded = frozenset(store.live_rows(excluded_ids).values())
    return ResolvedQuery(query, vector, excluded, matching)


def warnings_of(query: ResolvedQuery | LensembleError) -> tuple[str, ...]:
    """Hints about the filter of a query; see `lensemble_contract.filters`."""
    if isinstance(query, LensembleError) or query.matching is None:
        return ()
    return query.matching.warnings


def search_resolved(
    state: IndexState, queries: Sequence[ResolvedQuery | LensembleError]
) -> list[list[ScoreAndRow] | LensembleError]:
    """Searches a batch; queries with the same filter are searched together.

    Args:
        state: what is searched.
        queries: resolved queries; errors are passed through.

    Returns:
        For each query the scores and rows of up to `top_k` items, best first, or its error.
    """
    results: list[list[ScoreAndRow] | LensembleError] = [
        resolved if isinstance(resolved, LensembleError) else [] for resolved in queries
    ]
    groups: dict[str, list[tuple[int, ResolvedQuery]]] = {}
    for number, resolved in enumerate(queries):
        if isinstance(resolved, ResolvedQuery):
            groups.setdefault(resolved.query.filter, []).append((number, resolved))
    for group in groups.values():
        # Excluded rows are dropped from the result, so as many more are asked for.
        k = max(resolved.query.top_k + len(resolved.excluded) for _, resolved in group)
        vectors = np.stack([resolved.vector for _, resolved in group])
        scores, rows = state.search(vectors, k, group[0][1].matching)
        for (number, resolved), own_scores, own_rows in zip(
            group, scores.tolist(), rows.tolist(), strict=True
        ):
            results[number] = _first_allowed(resolved, zip(own_scores, own_rows, strict=True))
    return results


def _first_allowed(resolved: ResolvedQuery, scored: Iterable[ScoreAndRow]) -> list[ScoreAndRow]:
    """The first `top_k` results that are not excluded and whose score is high enough."""
    query = resolved.query
    if resolved.excluded or query.min_score > -1:
        scored = (
            (score, row)
            for score, row in scored
            if score >= query.min_score and row not in resolved.excluded
        )
    # Where fewer rows than asked for were found, the row is -1.
    return [(score, row) for score, row in scored if row >= 0][: query.top_k]
