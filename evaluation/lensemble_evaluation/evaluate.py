"""A dataset's split, a server -> metrics per task and language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lensemble_client.client import Client
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.entries import Entry
from lensemble_evaluation import metrics, rank
from lensemble_evaluation.dataset import Dataset

Through = Literal["embed", "search"]
ALL = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics of one group of queries.

    Attributes:
        task: The queries' `task`, or `all`.
        language: The queries' `language`, or `all`.
        dimensions: Length of the vectors; 0 is whatever the server's index has.
        queries: How many.
        metrics: Name in `metrics.NAMES` -> mean over the queries.
    """

    task: str
    language: str
    dimensions: int
    queries: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and on what.

    Attributes:
        dataset: Name.
        split: Name.
        through: `embed` or `search`.
        server: Name and version.
        corpus: Items that were searched.
        rows: Metrics.
        embedder: Which one, of `contract.EMBEDDERS`.
    """

    dataset: str
    split: str
    through: Through
    server: str
    corpus: int
    rows: list[Row]
    embedder: str = contract.NATIVE

    def row(self, task: str, language: str = ALL, dimensions: int | None = None) -> Row:
        """The row of a group; of the longest vectors if no length is given.

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
        """As written by `lensemble eval --json`."""
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
    """Measures how well a server finds what a dataset says is relevant.

    Args:
        client: Of a running server.
        dataset: What to ask.
        through: `embed` ranks here, exactly; `search` lets the server's index rank.
        dimensions: Matryoshka lengths, for `embed`; empty is the full one.
        embedder: Which one, of `contract.EMBEDDERS`; `search` has the native one only.
        concurrency: Calls under way at a time.
        progress: Whether to show progress bars.

    Raises:
        InvalidInputError: `concurrency` is below 1, or `search` is to use another embedder.
        LensembleError: See `rank`.
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
        per_length = {
            0: rank.by_search(client, dataset, concurrency=concurrency, progress=progress)
        }
    else:
        per_length = rank.by_embedding(
            client,
            dataset,
            dimensions,
            embedder=embedder,
            concurrency=concurrency,
            progress=progress,
        )
    rows = rows_of(dataset, per_length)
    return Evaluation(
        dataset.name, dataset.split, through, server, len(dataset.corpus), rows, embedder
    )


def rows_of(dataset: Dataset, per_length: Mapping[int, Sequence[metrics.Ranks]]) -> list[Row]:
    """Metrics per task and language.

    Args:
        dataset: What was asked.
        per_length: Length of the vectors -> per query the ranks (R,) of its relevant items.
    """
    rows = []
    for length, ranks in per_length.items():
        groups = defaultdict(list)
        for query, of_relevant in zip(dataset.queries, ranks, strict=True):
            values = metrics.of_query(of_relevant, list(dataset.qrels[query.id].values()))
            for group in _groups(query):
                groups[group].append(values)
        rows += [
            Row(task, language, length, len(values), metrics.mean(values))
            for (task, language), values in groups.items()
        ]
    return rows


def _groups(query: Entry) -> list[tuple[str, str]]:
    """Its task, and its task in its language."""
    task, language = (str(query.document.get(name) or ALL) for name in ("task", "language"))
    return list(dict.fromkeys([(task, ALL), (task, language)]))
