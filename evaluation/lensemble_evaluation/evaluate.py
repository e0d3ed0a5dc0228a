"""`lensemble eval`: measures a server on one split of a dataset, per task and language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.entries import Entry
from lensemble_evaluation import metrics, ranking
from lensemble_evaluation.dataset import Dataset

Through: TypeAlias = Literal["embed", "search"]
ALL = "all"


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """Metrics of one group of queries.

    Attributes:
        task: The queries' `task`, or `all`.
        language: The queries' `language`, or `all`.
        dimensions: Length of the vectors; 0 if the server's index ranked the items.
        queries: Number of queries in the group.
        metrics: Name in `metrics.NAMES` -> mean over the queries.
    """

    task: str
    language: str
    dimensions: int
    queries: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a server on one split of a dataset.

    Attributes:
        dataset: Name of the dataset.
        split: Name of the split.
        through: `embed` or `search`, as for `evaluate`.
        server: The server's name and version.
        corpus: Number of items that were searched.
        rows: Metrics, one row per group of queries and length of vectors.
        embedder: Name in `contract.EMBEDDERS`.
    """

    dataset: str
    split: str
    through: Through
    server: str
    corpus: int
    rows: list[MetricsRow]
    embedder: str = contract.NATIVE

    def row(self, task: str, language: str = ALL, dimensions: int | None = None) -> MetricsRow:
        """Returns the row of a group of queries; without a length, that of the longest vectors.

        Raises:
            KeyError: There is no such row.
        """
        matching = [
            row
            for row in self.rows
            if (row.task, row.language) == (task, language) and dimensions in (None, row.dimensions)
        ]
        if not matching:
            raise KeyError((task, language, dimensions))
        return max(matching, key=lambda row: row.dimensions)


def evaluate(
    client: Client,
    dataset: Dataset,
    *,
    through: Through = "embed",
    dimensions: Sequence[int] = (),
    embedder: str = contract.NATIVE,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: bool = False,
) -> Evaluation:
    """Measures how well a server finds what a dataset marks as relevant.

    Args:
        client: Client of a running server.
        dataset: Items, queries and relevance judgments.
        through: `embed` ranks in this process, exactly; `search` lets the server's index rank.
        dimensions: Matryoshka lengths, for `embed`; empty means the full length.
        embedder: Name in `contract.EMBEDDERS`; `search` supports the native one only.
        concurrency: Number of calls that run at the same time.
        progress: Whether to show progress bars.

    Raises:
        InvalidInputError: `concurrency` is below 1, or `search` was given another embedder.
        LensembleError: As in `rank_by_embedding` and `rank_by_search`.
    """
    if concurrency < 1:
        raise InvalidInputError(f"{concurrency}; expected 1 or more", field="concurrency")
    if through == "search" and embedder != contract.NATIVE:
        raise InvalidInputError(
            f"{embedder!r}; the server's index is searched with {contract.NATIVE!r} only",
            field="embedder",
        )
    server = client.status().server
    if through == "search":
        ranks = {
            0: ranking.rank_by_search(client, dataset, concurrency=concurrency, progress=progress)
        }
    else:
        ranks = ranking.rank_by_embedding(
            client,
            dataset,
            dimensions,
            embedder=embedder,
            concurrency=concurrency,
            progress=progress,
        )
    rows = metrics_by_group(dataset, ranks)
    return Evaluation(
        dataset.name, dataset.split, through, server, len(dataset.corpus), rows, embedder
    )


def metrics_by_group(
    dataset: Dataset, ranks_by_length: Mapping[int, Sequence[metrics.Ranks]]
) -> list[MetricsRow]:
    """Computes the metrics of each task, and of each task in each language.

    Args:
        dataset: The queries, with relevance judgments.
        ranks_by_length: Length of the vectors -> for each query, the ranks (R,) of its relevant
            items.
    """
    rows = []
    for length, ranks in ranks_by_length.items():
        groups = defaultdict(list)
        for query, ranks_of_query in zip(dataset.queries, ranks, strict=True):
            relevance = list(dataset.qrels[query.id].values())
            values = metrics.query_metrics(ranks_of_query, relevance)
            for group in _groups(query):
                groups[group].append(values)
        rows += [
            MetricsRow(task, language, length, len(values), metrics.mean_metrics(values))
            for (task, language), values in groups.items()
        ]
    return rows


def _groups(query: Entry) -> list[tuple[str, str]]:
    """Returns the groups (task, language) of a query: its task, and its task in its language."""
    task, language = (str(query.document.get(name) or ALL) for name in ("task", "language"))
    return list(dict.fromkeys([(task, ALL), (task, language)]))
