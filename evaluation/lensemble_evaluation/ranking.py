"""Finds the rank of every relevant item, by sending queries and corpus to a server.

`rank_by_embedding` (`--through embed`): the server embeds all items, and this process ranks them
exactly. This measures the model, at any Matryoshka length. `rank_by_search` (`--through search`):
the server's own index ranks the items. This measures what a user gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_client.results import Embedding
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_corpus.entries import Entry
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.metrics import Ranks

T = TypeVar("T")

# Largest rank that `rank_by_search` measures; relevant items further down count as not found.
MAX_RANK = 100
# Number of queries in one score matrix, which limits its memory.
_QUERIES_PER_BLOCK = 512


def rank_by_embedding(
    client: Client,
    dataset: Dataset,
    dimensions: Sequence[int],
    *,
    embedder: str = contract.NATIVE,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: bool = False,
) -> dict[int, list[Ranks]]:
    """Ranks by exact search over vectors that the server makes.

    Each item is embedded once, at full length; shorter vectors are cut from it and normalized
    again, which is what the server does for `dimensions`.

    Args:
        client: Client of a running server.
        dataset: Items and queries.
        dimensions: Matryoshka lengths; empty means the full length.
        embedder: Name in `contract.EMBEDDERS`.
        concurrency: Number of calls that run at the same time.
        progress: Whether to show progress bars.

    Returns:
        Length of the vectors -> for each query, the ranks (R,) of its relevant items, in the order
        of `qrels`.

    Raises:
        InvalidInputError: An item cannot be embedded (the error names it), or the server does not
            serve one of the lengths.
        LensembleError: The server cannot be reached.
    """

    def embed(entries: Sequence[Entry], title: str) -> NDArray[np.float32]:
        def embed_entry(entry: Entry) -> Embedding:
            item = entry.item()
            return client.embed(
                item.text, item.images or None, instruction=item.instruction, embedder=embedder
            )

        return np.stack(
            _map_entries(entries, embed_entry, concurrency, title if progress else None)
        )

    first = dataset.queries[0].item()
    for length in dimensions:  # so that an unsupported length fails before everything is embedded
        client.embed(first.text, first.images or None, dimensions=length, embedder=embedder)
    corpus = embed(dataset.corpus, "corpus")
    queries = embed(dataset.queries, "queries")
    return {
        length: exact_ranks(dataset, cut_vectors(queries, length), cut_vectors(corpus, length))
        for length in sorted(set(dimensions)) or [corpus.shape[1]]
    }


def rank_by_search(
    client: Client,
    dataset: Dataset,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: bool = False,
) -> list[Ranks]:
    """Ranks by the server's own index, which must contain the dataset's corpus under its ids.

    Args:
        client: Client of a running server with an index.
        dataset: Items and queries.
        concurrency: Number of calls that run at the same time.
        progress: Whether to show a progress bar.

    Returns:
        For each query, the ranks (R,) of its relevant items; infinite beyond `MAX_RANK`.

    Raises:
        InvalidInputError: The server refuses a query, or the index contains other items.
        LensembleError: The server cannot be reached, or has no index.
    """
    searched = {entry.id for entry in dataset.corpus}

    def rank_query(query: Entry) -> Ranks:
        item = query.item()
        excluded = dataset.excluded.get(query.id, frozenset())
        # Items that this split does not search may be among the hits, and are removed below.
        # Nobody knows beforehand how many hits are such items, so as many hits as possible are
        # requested.
        top_k = contract.MAX_TOP_K if dataset.not_searched else MAX_RANK + len(excluded)
        hits = client.search(
            item.text,
            item.images or None,
            instruction=item.instruction,
            top_k=min(top_k, contract.MAX_TOP_K),
        )
        rank_of: dict[str, int] = {}
        for hit in hits:
            if hit.id in searched and hit.id not in excluded:
                rank_of[hit.id] = len(rank_of) + 1
            elif hit.id not in searched and hit.id not in dataset.not_searched:
                raise InvalidInputError(
                    f"the server's index holds {hit.id!r}, which is not in the dataset; build the "
                    "index with `lensemble index build DATASET`",
                    field="index",
                )
        ranks = np.array([rank_of.get(id_, np.inf) for id_ in dataset.qrels[query.id]])
        return np.where(ranks <= MAX_RANK, ranks, np.inf)

    return _map_entries(dataset.queries, rank_query, concurrency, "search" if progress else None)


def cut_vectors(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Cuts vectors to a Matryoshka length and normalizes them again.

    Args:
        vectors: (N, D) float32.
        dimensions: Length of the result.

    Returns:
        (N, dimensions) float32, unit length.
    """
    shortened = vectors[:, :dimensions]
    norms = np.linalg.norm(shortened, axis=1, keepdims=True)
    unit: NDArray[np.float32] = shortened / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def exact_ranks(
    dataset: Dataset, queries: NDArray[np.float32], corpus: NDArray[np.float32]
) -> list[Ranks]:
    """Ranks by exact search over given vectors.

    Args:
        dataset: Items and queries.
        queries: (Q, D) float32, unit length, in the dataset's order.
        corpus: (N, D) float32, unit length, in the dataset's order.

    Returns:
        For each query, the ranks (R,) of its relevant items, in the order of `qrels`.
    """
    row_of = {entry.id: row for row, entry in enumerate(dataset.corpus)}
    ids = np.array([entry.id for entry in dataset.corpus])
    all_ranks = []
    for start in range(0, len(queries), _QUERIES_PER_BLOCK):
        block = queries[start : start + _QUERIES_PER_BLOCK] @ corpus.T
        for scores, query in zip(block, dataset.queries[start:], strict=False):
            excluded = dataset.excluded.get(query.id, frozenset())
            scores[[row_of[id_] for id_ in excluded if id_ in row_of]] = -np.inf
            relevant = [row_of[id_] for id_ in dataset.qrels[query.id]]
            all_ranks.append(np.array([_rank(scores, ids, row) for row in relevant], np.float64))
    return all_ranks


def _rank(scores: NDArray[np.float32], ids: NDArray[np.str_], row: int) -> int:
    """Returns the rank of a row, from 1.

    If scores are equal, the greater id comes first, as in trec_eval.
    """
    equal = (scores == scores[row]) & (ids > ids[row])
    return 1 + int((scores > scores[row]).sum()) + int(equal.sum())


def error_of_entry(error: LensembleError, entry: Entry) -> LensembleError:
    """Returns the same error with the id of the entry in its message."""
    return type(error)(f"{entry.id!r}: {error.message}", field=error.field)


def _map_entries(
    entries: Sequence[Entry], function: Callable[[Entry], T], concurrency: int, title: str | None
) -> list[T]:
    """Calls a function for each entry, several at a time. An error names its entry.

    Args:
        entries: Entries to map.
        function: Called with each entry, in several threads.
        concurrency: Number of threads.
        title: Title of the progress bar; None shows none.
    """

    def call(entry: Entry) -> T:
        try:
            return function(entry)
        except LensembleError as error:
            raise error_of_entry(error, entry) from error

    with ThreadPoolExecutor(min(concurrency, len(entries))) as pool:
        results = pool.map(call, entries)
        try:
            return list(tqdm(results, title, len(entries), disable=title is None))
        except LensembleError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
