"""Queries and corpus through the server -> the rank of every relevant item.

Through `embed`, everything is embedded by the server and ranked here, exactly: what the model can
do, at every Matryoshka length. Through `search`, the server's own index ranks: what a user gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client.client import Client, Embedding
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_corpus.entries import Entry
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.metrics import Ranks

T = TypeVar("T")

_ROWS_AT_A_TIME = 512
DEPTH = 100
"""How far `search` is read; items further down count as not found."""


def by_embedding(
    client: Client,
    dataset: Dataset,
    dimensions: Sequence[int],
    *,
    embedder: str = contract.NATIVE,
    concurrency: int = 16,
    progress: bool = False,
) -> dict[int, list[Ranks]]:
    """Ranks by exact search over embeddings that the server makes.

    Each item is embedded once, at full length; shorter vectors are its beginning, normalised again,
    which is what the server does with `dimensions`.

    Args:
        client: Of a running server.
        dataset: What to ask.
        dimensions: Lengths; an empty list is the full one only.
        embedder: Which one, of `contract.EMBEDDERS`.
        concurrency: Calls under way at a time.
        progress: Whether to show progress bars.

    Returns:
        Length -> per query the ranks (R,) of its relevant items, in the order of `qrels`.

    Raises:
        InvalidInputError: An item cannot be embedded (it is named), or the server does not give
            vectors of such a length.
        LensembleError: The server cannot be reached.
    """

    def embed(entries: Sequence[Entry], what: str) -> NDArray[np.float32]:
        def one(entry: Entry) -> Embedding:
            item = entry.item()
            return client.embed(
                item.text, item.images, instruction=item.instruction, embedder=embedder
            )

        return np.stack(_each(entries, one, concurrency, what if progress else None))

    first = dataset.queries[0].item()
    for length in dimensions:  # the server says what it gives, before everything is embedded
        client.embed(first.text, first.images, dimensions=length, embedder=embedder)
    corpus = embed(dataset.corpus, "corpus")
    queries = embed(dataset.queries, "queries")
    return {
        length: exact(dataset, cut(queries, length), cut(corpus, length))
        for length in sorted(set(dimensions)) or [corpus.shape[1]]
    }


def by_search(
    client: Client, dataset: Dataset, *, concurrency: int = 16, progress: bool = False
) -> list[Ranks]:
    """Ranks by the server's own index, which must hold the dataset's corpus under its ids.

    Args:
        client: Of a running server with an index.
        dataset: What to ask.
        concurrency: Calls under way at a time.
        progress: Whether to show a progress bar.

    Returns:
        Per query the ranks (R,) of its relevant items; infinite beyond the first `DEPTH`.

    Raises:
        InvalidInputError: A query cannot be asked, or the index holds other items.
        LensembleError: The server cannot be reached, or has no index.
    """
    searched = {entry.id for entry in dataset.corpus}

    def one(query: Entry) -> Ranks:
        item = query.item()
        excluded = dataset.excluded.get(query.id, frozenset())
        # Without a filter in `search`, what is not searched can only be dropped afterwards.
        depth = contract.MAX_TOP_K if dataset.not_searched else DEPTH + len(excluded)
        hits = client.search(
            item.text,
            item.images,
            instruction=item.instruction,
            top_k=min(depth, contract.MAX_TOP_K),
        )
        place: dict[str, int] = {}
        for hit in hits:
            if hit.id in searched and hit.id not in excluded:
                place[hit.id] = len(place) + 1
            elif hit.id not in searched and hit.id not in dataset.not_searched:
                raise InvalidInputError(
                    f"the server's index holds {hit.id!r}, which is not in the dataset; build it "
                    "with `lensemble index build DATASET`",
                    field="index",
                )
        ranks = np.array([place.get(id_, np.inf) for id_ in dataset.qrels[query.id]])
        return np.where(ranks <= DEPTH, ranks, np.inf)

    return _each(dataset.queries, one, concurrency, "search" if progress else None)


def cut(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Matryoshka: the beginning of each vector, of unit length again.

    Args:
        vectors: (N, D) float32.
        dimensions: Length of the result.

    Returns:
        (N, dimensions) float32.
    """
    short = vectors[:, :dimensions]
    length = np.linalg.norm(short, axis=1, keepdims=True)
    unit: NDArray[np.float32] = short / np.maximum(length, np.finfo(np.float32).tiny)
    return unit


def exact(
    dataset: Dataset, queries: NDArray[np.float32], corpus: NDArray[np.float32]
) -> list[Ranks]:
    """Ranks by exact search.

    Args:
        dataset: What was asked.
        queries: (Q, D) float32, unit length, in the dataset's order.
        corpus: (N, D) float32, unit length, in the dataset's order.

    Returns:
        Per query the ranks (R,) of its relevant items, in the order of `qrels`.
    """
    row_of = {entry.id: row for row, entry in enumerate(dataset.corpus)}
    ids = np.array([entry.id for entry in dataset.corpus])
    all_ranks = []
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        scores = queries[start : start + _ROWS_AT_A_TIME] @ corpus.T
        for row, query in zip(scores, dataset.queries[start:], strict=False):
            excluded = dataset.excluded.get(query.id, frozenset())
            row[[row_of[id_] for id_ in excluded if id_ in row_of]] = -np.inf
            relevant = [row_of[id_] for id_ in dataset.qrels[query.id]]
            all_ranks.append(np.array([_rank(row, ids, n) for n in relevant], np.float64))
    return all_ranks


def _rank(scores: NDArray[np.float32], ids: NDArray[np.str_], n: int) -> int:
    """From 1; of equal scores the greater id stands first, as in trec_eval."""
    equal = (scores == scores[n]) & (ids > ids[n])
    return 1 + int((scores > scores[n]).sum()) + int(equal.sum())


def _each(
    entries: Sequence[Entry], one: Callable[[Entry], T], concurrency: int, what: str | None
) -> list[T]:
    """One call per entry, several at a time; an error names its entry."""

    def named(entry: Entry) -> T:
        try:
            return one(entry)
        except LensembleError as error:
            raise type(error)(f"{entry.id!r}: {error.message}", field=error.field) from error

    with ThreadPoolExecutor(min(concurrency, len(entries))) as pool:
        results = pool.map(named, entries)
        try:
            return list(tqdm(results, what, len(entries), disable=what is None))
        except LensembleError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
