"""One run of `lensemble corpus sync` over a table."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from lensemble_client.client import Client
from lensemble_client.concurrency.threads import stream_batches
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract import contract
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotReadyError,
    ReadOnlyError,
    StorageError,
)
from lensemble_corpus.source import EmbeddableRow, RefusedRow, Source
from lensemble_corpus.sync.indexed_items import IndexedItem, read_indexed_items
from lensemble_corpus.sync.row_sync import Outcome, RowSync
from lensemble_corpus.sync.table_digest import TableDigest, digest_of_name

# Every further row would meet these errors, too.
_ERRORS_OF_ALL_ROWS = (NotReadyError, ReadOnlyError, StorageError)


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that is not in the index as it is in the table.

    Attributes:
        where: Its position in the table, such as `line 3`.
        id: Id of the item; empty if it is not known.
        error: The reason.
    """

    where: str
    id: str
    error: LensembleError


@dataclass(slots=True)
class SyncSummary:
    """The result of `sync_table`.

    Attributes:
        counts: Outcome -> number of items.
        failed: Rows that could not be written; what the index has under their ids is unchanged.
        others: Number of items in the index that are not of this table; they are left as they are.
        kept: Number of items whose rows are missing, and that were not removed.
        why_kept: Why they were not removed; empty if there are none.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    failed: list[FailedRow] = field(default_factory=list)
    others: int = 0
    kept: int = 0
    why_kept: str = ""


def sync_table(
    client: Client,
    source: Source,
    *,
    name: str | None = None,
    dry_run: bool = False,
    remove_most: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    report: Callable[[Outcome, str], object] | None = None,
    progress: bool = False,
) -> SyncSummary:
    """Makes the items of a table in an index equal to its rows, through a running server.

    Rows that the index lacks are embedded and added. A row whose text or pictures have changed is
    embedded again. If only other fields have changed, the document is written and the vector kept.
    Items of the table whose rows are missing are removed. Items that are not of this table are left
    as they are. After an interruption, call it again: what is written already is not written again.

    An item is removed only if every row of the table has an id that can be read, and, without
    `remove_most`, only if at least half of the table's items remain: a table that was cut by
    accident must not empty the index.

    Args:
        client: Client of a running server that accepts writes.
        source: Rows of the table.
        name: Name of the table, by which its items are recognized; None takes that of its file.
        dry_run: Whether to compare without writing.
        remove_most: Whether more than half of the table's items may be removed.
        concurrency: Number of rows that are written at the same time.
        report: Function that is called with what becomes of each item that is not unchanged, and
            with its id.
        progress: Whether to show a progress bar on standard error.

    Raises:
        NotReadyError: The server cannot be reached, or has no index.
        ReadOnlyError: The server accepts no writes.
        StorageError: The index cannot be read or written.
    """
    run = _Run(client, digest_of_name(name or source.name), dry_run, report)
    with tqdm(desc="sync", total=source.total, unit="row", disable=not progress) as bar:
        run.write(source, concurrency, bar.update)
    run.remove(remove_most=remove_most)
    return run.summary


class _Run:
    """The state of one call of `sync_table`."""

    def __init__(
        self,
        client: Client,
        table: str,
        dry_run: bool,
        report: Callable[[Outcome, str], object] | None,
    ) -> None:
        self._client, self._table, self._dry_run = client, table, dry_run
        self._report = report
        self._rows = RowSync(client, table, dry_run=dry_run)
        self._stored: dict[str, IndexedItem] = read_indexed_items(client)
        self._seen: dict[str, str] = {}  # id -> position of its row
        self._nameless = ""  # position of a row whose id is not known
        self.summary = SyncSummary()

    def write(self, source: Source, concurrency: int, advance: Callable[[int], object]) -> None:
        """Compares every row with the index, and writes what differs.

        Args:
            source: Rows of the table.
            concurrency: Number of rows that are written at the same time.
            advance: Function that is called with a number of finished rows.
        """
        failed: list[tuple[int, FailedRow]] = []

        def finish(
            number: int, row: EmbeddableRow | RefusedRow, result: Outcome | LensembleError
        ) -> None:
            advance(1)
            id_ = row.entry.id if isinstance(row, EmbeddableRow) else row.id
            if isinstance(result, LensembleError):
                failed.append((number, FailedRow(row.where, id_, result)))
            else:
                self._count(result, id_)

        def rows_to_write() -> Iterator[list[tuple[int, tuple[int, EmbeddableRow]]]]:
            # Rows that need no work are finished here, and not kept in memory. `stream_batches`
            # reads this generator in the thread that reads the results.
            positions = itertools.count()
            for number, row in enumerate(source):
                error = self._note(row)
                if error is not None:
                    finish(number, row, error)
                    continue
                assert isinstance(row, EmbeddableRow)  # `_note` gives the error of any other
                if self._rows.is_current(row, self._stored.get(row.entry.id)):
                    finish(number, row, Outcome.UNCHANGED)
                else:
                    yield [(next(positions), (number, row))]

        for number, row, result in stream_batches(rows_to_write(), self._write_row, concurrency):
            finish(number, row, result)
        failed.sort(key=lambda pair: pair[0])
        self.summary.failed = [row for _, row in failed]

    def _count(self, outcome: Outcome, id_: str) -> None:
        self.summary.counts[outcome] += 1
        if self._report is not None and outcome is not Outcome.UNCHANGED:
            self._report(outcome, id_)

    def _note(self, row: EmbeddableRow | RefusedRow) -> LensembleError | None:
        """Notes the id of a row; returns the error with which the row is refused."""
        if isinstance(row, RefusedRow):
            if row.id:
                self._seen.setdefault(row.id, row.where)
            else:
                self._nameless = self._nameless or row.where
            return row.error
        earlier = self._seen.setdefault(row.entry.id, row.where)
        if earlier == row.where:
            return None
        return InvalidInputError(f"its id is that of {earlier}; ids must be unique", field="id")

    def _write_row(
        self, batch: list[tuple[int, tuple[int, EmbeddableRow]]]
    ) -> list[tuple[int, EmbeddableRow, Outcome | LensembleError]]:
        ((_, (number, row)),) = batch
        try:
            return [(number, row, self._rows.apply(row, self._stored.get(row.entry.id)))]
        except _ERRORS_OF_ALL_ROWS:
            raise
        except LensembleError as error:
            return [(number, row, error)]

    def remove(self, *, remove_most: bool) -> None:
        """Removes the items of the table whose rows are missing."""
        own = [id_ for id_, stored in self._stored.items() if self._is_own(stored)]
        missing = [id_ for id_ in own if id_ not in self._seen]
        foreign = self._stored.keys() - set(own)
        self.summary.others = sum(id_ not in self._seen for id_ in foreign)
        if missing and self._nameless:
            reason = f"the id of {self._nameless} cannot be read, so it may be one of them"
        elif 2 * len(missing) > len(own) and not remove_most:
            reason = (
                f"they are more than half of the {len(own)} items that the table has in the index; "
                "say --remove-most if this is meant"
            )
        else:
            reason = ""
        if reason:
            self.summary.kept, self.summary.why_kept = len(missing), reason
            return
        step = contract.MAX_BATCH_SIZE
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            if not self._dry_run:
                self._client.delete(part)
            for id_ in part:
                self._count(Outcome.REMOVED, id_)

    def _is_own(self, stored: IndexedItem) -> bool:
        digest = TableDigest.parse(stored.digest)
        return digest is not None and digest.table == self._table
