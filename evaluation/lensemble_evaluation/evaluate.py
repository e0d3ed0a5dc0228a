"""`lensemble eval`: metrics per task and language of a server on one split of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from lensemble_client.client import Client
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
        task: the queries' `task`, or `all`.
        language: the queries' `language`, or `all`.
        dimensions: length of the vectors; 0 if the server's index ranked.
        queries: number of queries in the group.
        metrics: name in `metrics.NAMES` -> mean over the queries.
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
        dataset: name of the dataset.
        split: name of the split.
        through: `embed` or `search`, as for `evaluate`.
        server: the server's name and version.
        corpus: number of items that were searched.
        rows: metrics, one row per group of queries and length of vectors.
        embedder: name in `contract.EMBEDDERS`.
    """

    dataset: str
    split: str
    through: Through
    server: str
    corpus: int
    rows: list[MetricsRow]
    embedder: str = contract.NATIVE

    def row(self, task: str, language: str = ALL, dimensions: int | None = None) -> MetricsRow:
        """The row of a group of queries; without a length, the row of the longest vectors.

        Raises:
            KeyError: There is no such row.
        """
        fitting = [
            row
            for row in self.rows
            if (row.task, row.language) == (task, language) and dimensions in (None, row.dimensions)
        ]
        if not fitting:
            raise KeyError((task, language, dimensions))
        return max(fitting, key=lambda row: row.dimensions)

    def to_json(self) -> dict[str, Any]:
        """The fields as `lensemble eval --json` writes them."""
        return asdict(self)


def evaluate(
    client: Client,
    dataset: Dataset,
    *,
    through: Through = "embed",
    dimensions: Sequence[int] = (),
    embedder: str = contract.NATIVE,
    concurrency: int = 16,
    progress: bool = False,
) -> Evaluation:
    """Measures how well a server finds what a dataset marks as relevant.

    Args:
        client: client of a running server.
        dataset: items, queries and relevance judgments.
        through: `embed` ranks in this process, exactly; `search` lets the server's index rank.
        dimensions: Matryoshka lengths, for `embed`; empty means the full length.
        embedder: name in `contract.EMBEDDERS`; `search` supports the native one only.
        concurrency: calls in flight at a time.
        progress: whether to show progress bars.

    Raises:
        InvalidInputError: `concurrency` is below 1, or `search` was given another embedder.
        LensembleError: See `ranking`.
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
    """Metrics per task, and per task and language.

    Args:
        dataset: the queries, with relevance judgments.
        ranks_by_length: length of the vectors -> for each query, the ranks (R,) of its relevant
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
    """The groups (task, language) of a query: its task, and its task in its language."""
    task, language = (str(query.document.get(name) or ALL) for name in ("task", "language"))
    return list(dict.fromkeys([(task, ALL), (task, language)]))
