"""Reads an evaluation dataset: a folder in BEIR's layout, extended by pictures.

    corpus.jsonl            items, as `lensemble_corpus.entries` reads them
    queries.jsonl           queries in the same form; "task" and "language" group them, "exclude"
                            lists ids that the query must not find, such as its own
    qrels/test.tsv          query-id <tab> corpus-id <tab> score, below a line of headings
    candidates/test.txt     optional: the ids of the corpus that are searched, one per line

Each file in `qrels` is a split. A query without a relevant item in a split is left out.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.entries import Entry, load_entries, read_lines, read_strings

# A larger relevance is refused, because it is probably a typing error.
MAX_RELEVANCE = 1000

_QUERIES = "queries.jsonl"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of a dataset.

    Attributes:
        name: Name of the folder.
        split: Name of the file in `qrels`, without its ending.
        corpus: Items that are searched.
        queries: Queries; each has at least one relevant item.
        qrels: Query id -> corpus id -> relevance, 1 or more.
        excluded: Query id -> ids that the query must not find.
        not_searched: Ids of the corpus that this split leaves out.
    """

    name: str
    split: str
    corpus: list[Entry]
    queries: list[Entry]
    qrels: dict[str, dict[str, int]] = field(repr=False)
    excluded: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    not_searched: frozenset[str] = field(default=frozenset(), repr=False)


def splits(folder: Path) -> list[str]:
    """Returns the names of the splits of a dataset.

    Raises:
        InvalidInputError: The folder does not exist, or has no split.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"no folder {str(folder)!r}", field="dataset")
    names = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if not names:
        raise InvalidInputError(
            f"no qrels/*.tsv in {str(folder)!r}, so this is not a dataset in BEIR's layout; "
            "docs/evaluation.md describes the layout",
            field="dataset",
        )
    return names


def load_dataset(folder: Path, split: str | None = None) -> Dataset:
    """Reads one split.

    Args:
        folder: Folder of the dataset.
        split: Name of a file in `qrels`, without `.tsv`; None takes the only one, or `test`.

    Raises:
        InvalidInputError: A file is missing, or a line of it is not valid; the error names the file
            and the line.
    """
    known = splits(folder)
    if split is None and len(known) == 1:
        (split,) = known
    if split is None and "test" not in known:
        raise InvalidInputError(f"choose one of {', '.join(known)} with --split", field="split")
    split = split or "test"
    if split not in known:
        raise InvalidInputError(f"{split!r} is not one of {', '.join(known)}", field="split")
    corpus = {entry.id: entry for entry in load_entries(folder)}
    queries = {entry.id: entry for entry in load_entries(folder, _QUERIES)}
    for name, entries in (("corpus.jsonl", corpus), (_QUERIES, queries)):
        _check_pictures(name, list(entries.values()))
    excluded = {id_: _excluded_ids(query) for id_, query in queries.items()}
    candidates = folder / "candidates" / f"{split}.txt"
    searched = _load_candidates(candidates, corpus) if candidates.is_file() else corpus
    qrels = _load_qrels(folder / "qrels" / f"{split}.tsv", excluded, searched)
    return Dataset(
        folder.resolve().name,
        split,
        list(searched.values()),
        [queries[id_] for id_ in queries if id_ in qrels],
        qrels,
        excluded,
        frozenset(corpus.keys() - searched.keys()),
    )


def _check_pictures(name: str, entries: list[Entry]) -> None:
    """Checks that all pictures exist, so that hours of embedding do not fail in the middle."""
    for entry in entries:
        for path in entry.images:
            if not path.is_file():
                raise InvalidInputError(f"{entry.id!r}: no picture {str(path)!r}", field=name)


def _excluded_ids(query: Entry) -> frozenset[str]:
    try:
        return frozenset(read_strings(query.document, "exclude"))
    except ValueError as error:
        raise InvalidInputError(f"{query.id!r}: {error}", field=_QUERIES) from error


def _load_qrels(
    path: Path, excluded: dict[str, frozenset[str]], searched: Container[str]
) -> dict[str, dict[str, int]]:
    name = f"qrels/{path.name}"
    judged: dict[str, dict[str, int]] = {}
    for n, (where, line) in enumerate(read_lines(path)):
        cells = line.split("\t")
        if n == 0 and cells[0] == "query-id":
            continue
        try:
            query, item, score = cells
            relevance = int(score)
            if not 0 <= relevance <= MAX_RELEVANCE:
                raise ValueError
        except ValueError as error:
            raise InvalidInputError(
                f"{where}: {line[:80]!r}; expected query-id, corpus-id and a whole number from 0 "
                f"to {MAX_RELEVANCE}, separated by tabs",
                field=name,
            ) from error
        judgments = judged.setdefault(query, {})
        if query not in excluded:
            problem = f"query {query!r} is not in {_QUERIES}"
        elif item not in searched:
            problem = f"item {item!r} is not in corpus.jsonl, or not in this split's candidates"
        elif relevance and item in excluded[query]:
            problem = f"{item!r} is marked as relevant, but the query excludes it"
        elif item in judgments:
            problem = f"{query!r} and {item!r} are judged twice"
        else:
            judgments[item] = relevance
            continue
        raise InvalidInputError(f"{where}: {problem}", field=name)
    relevant = {
        query: {item: relevance for item, relevance in judgments.items() if relevance}
        for query, judgments in judged.items()
    }
    if not any(relevant.values()):
        raise InvalidInputError("it marks no item as relevant", field=name)
    return {query: judgments for query, judgments in relevant.items() if judgments}


def _load_candidates(path: Path, corpus: dict[str, Entry]) -> dict[str, Entry]:
    name = f"candidates/{path.name}"
    chosen = {}
    for where, id_ in read_lines(path):
        if id_ not in corpus:
            raise InvalidInputError(f"{where}: {id_!r} is not in corpus.jsonl", field=name)
        chosen[id_] = corpus[id_]
    if not chosen:
        raise InvalidInputError("it is empty; remove it to search everything", field=name)
    return chosen
