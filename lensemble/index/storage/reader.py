"""Reading a store: what is live, what came after a sequence number, what fits a filter."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index.storage.filter import Filter
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.records import StoreChanges, StoreContents, StoredItem
from lensemble.index.storage.sqlite import storage_error, transaction
from lensemble_contract.errors import InvalidInputError, StorageError

FORMAT = 4
STORE_FILE = "store.sqlite"

_READ_ROWS = 4096


class StoreState(NamedTuple):
    """The one line that says what a store is; the columns of the table `state`, in order.

    Attributes:
        format: Of the file.
        profile_name: What the vectors were made under.
        profile_hash: The same, as a hash.
        dimension: Length of the vectors.
        sequence: The number of the last change.
        purged: Tombstones up to this number are gone.
        snapshot: Name of the current snapshot; empty if there is none.
        previous: Name of the one before; empty if there is none.
        plan: Of the next one, as JSON.
    """

    format: int
    profile_name: str
    profile_hash: str
    dimension: int
    sequence: int
    purged: int
    snapshot: str
    previous: str
    plan: str

    @property
    def check(self) -> int:
        """Checksum of all of it."""
        return zlib.crc32("\0".join(map(str, self)).encode())


class TombstonesPurgedError(Exception):
    """Tombstones that the reader has not seen are gone."""


class StoreReader:
    """An open store that is read; one caller at a time.

    Args:
        folder: Of the index.
        connection: To its file.

    Attributes:
        folder: Of the index.
        profile_name: What the vectors were made under.
        profile_hash: The same, as a hash.
        dimension: Length of the vectors.

    Raises:
        InvalidInputError: The file is of another format.
        StorageError: It is damaged.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self._connection = folder, connection
        self._identity = _identity(folder / STORE_FILE)
        with self._faults():
            (format_,) = connection.execute("SELECT format FROM state").fetchone() or (None,)
        if format_ != FORMAT:
            raise InvalidInputError(
                f"{str(folder / STORE_FILE)!r} has format {format_}; expected {FORMAT}: build the "
                "index again",
                field="index",
            )
        state = self.state
        self.profile_name, self.profile_hash = state.profile_name, state.profile_hash
        self.dimension = state.dimension

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def replaced(self) -> bool:
        """Whether another file stands in this one's place, as after `restore`; cheap to ask."""
        return _identity(self.folder / STORE_FILE) not in (self._identity, None)

    @property
    def state(self) -> StoreState:
        """What the store is, now.

        Raises:
            StorageError: It is damaged.
        """
        with self._faults():
            *said, check = self._connection.execute("SELECT * FROM state").fetchone()
            state = StoreState(*said)
        if state.check != check:
            raise self._broken("the line that says what it is has a wrong checksum")
        return state

    @property
    def sequence(self) -> int:
        """The number of the last change."""
        return self.state.sequence

    @property
    def snapshot(self) -> str:
        """Name of the current snapshot; empty if there is none."""
        return self.state.snapshot

    @property
    def plan(self) -> IndexPlan:
        """How the next snapshot is to be searched."""
        return IndexPlan.from_json(self.state.plan)

    @property
    def version(self) -> int:
        """A number that is another one after another connection committed; cheap to ask."""
        with self._faults():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def fields(self) -> list[str]:
        """Fields of documents that have an index, in the order of their names."""
        with self._faults():
            found = self._connection.execute(
                "SELECT substr(name, 7) FROM sqlite_master WHERE name LIKE 'field:%' ORDER BY name"
            ).fetchall()
        return [name for (name,) in found]

    def __len__(self) -> int:
        with self._faults():
            (count,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE removed IS NULL"
            ).fetchone()
        return int(count)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One state of the store for all that is read inside; others go on writing."""
        if self._connection.in_transaction:
            yield
            return
        try:
            with transaction(self._connection, "DEFERRED"):
                yield
        except sqlite3.Error as error:
            raise storage_error(self.folder / STORE_FILE, error) from error

    def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """Live items by their ids; None where there is none.

        Raises:
            StorageError: A row is damaged.
        """
        found = []
        with self._faults(), self.reading():
            for id_ in ids:
                row = self._connection.execute(
                    "SELECT row, id, document, sequence, digest, vector, item_check, vector_check "
                    "FROM items JOIN vectors USING (row) WHERE id = ? AND removed IS NULL",
                    (id_,),
                ).fetchone()
                found.append(row and self._record(*row))
        return found

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Live rows by their ids; ids without one are missing."""
        found = {}
        with self._faults(), self.reading():
            for id_ in ids:
                row = self._connection.execute(
                    "SELECT row FROM items WHERE id = ? AND removed IS NULL", (id_,)
                ).fetchone()
                if row is not None:
                    found[id_] = int(row[0])
        return found

    def items(self, rows: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Ids and documents of rows, live or not; purged ones are missing.

        Raises:
            StorageError: A row is damaged.
        """
        found = {}
        with self._faults():
            for start in range(0, len(rows), _READ_ROWS):
                part = rows[start : start + _READ_ROWS]
                marks = ",".join("?" * len(part))
                for row, id_, document, digest, check in self._connection.execute(
                    "SELECT row, id, document, digest, item_check FROM items "  # nosec B608
                    f"WHERE row IN ({marks})",
                    part,
                ):
                    if check != item_check(id_, document, digest):
                        raise self._damaged(row)
                    found[row] = (id_, document)
        return found

    def matching(self, condition: Filter, after: int = 0) -> NDArray[np.int64]:
        """Live rows whose documents fit.

        Args:
            condition: What must hold.
            after: Only rows that were written after this sequence number.

        Returns:
            (N,) int64, ascending.

        Raises:
            StorageError: The file is damaged.
        """
        # A field's own index finds few rows among all; of the newest few, the newest are looked at.
        source, limit = ("items", ()) if not after else ("items INDEXED BY written", (after,))
        newer = "sequence > ? AND" if after else ""
        with self._faults(), self.reading():
            found = self._connection.execute(
                f"SELECT row FROM {source} WHERE removed IS NULL AND {newer} {condition.sql}",  # nosec B608
                (*limit, *condition.parameters),
            ).fetchall()
            rows = np.sort(np.array(found, np.int64).reshape(-1))
        return rows

    def since(self, sequence: int) -> StoreChanges:
        """What changed after a sequence number.

        Args:
            sequence: Of the last change that the reader knows; 0 knows nothing.

        Raises:
            TombstonesPurgedError: Tombstones after `sequence` were purged; use a newer snapshot.
            StorageError: A row is damaged.
        """
        with self._faults(), self.reading():
            state = self.state
            if 0 < sequence < state.purged:
                raise TombstonesPurgedError
            removed = self._connection.execute(
                "SELECT row, removed FROM items WHERE removed > ? ORDER BY removed", (sequence,)
            ).fetchall()
            rows, vectors = self._live(sequence)
            gone = np.array(removed, np.int64).reshape(-1, 2)
        return StoreChanges(state.sequence, rows, vectors, gone[:, 0], gone[:, 1])

    def pending(self, snapshot: int) -> tuple[int, int]:
        """How much a snapshot lacks.

        Args:
            snapshot: Its sequence number.

        Returns:
            Live rows written after it, and rows removed after it.
        """
        with self._faults(), self.reading():
            (written,) = self._connection.execute(
                "SELECT count(*) FROM items INDEXED BY written "
                "WHERE sequence > ? AND removed IS NULL",
                (snapshot,),
            ).fetchone()
            (removed,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE removed > ?", (snapshot,)
            ).fetchone()
        return int(written), int(removed)

    def contents(self) -> StoreContents:
        """All that is live.

        Raises:
            StorageError: A row is damaged.
        """
        with self._faults(), self.reading():
            sequence = self.state.sequence
            given = self._connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'items'"
            ).fetchone()
            rows, vectors = self._live(0)
        return StoreContents(sequence, given[0] if given else 0, rows, vectors)

    def records(self) -> Iterator[StoredItem]:
        """Every live item in the order of rows, each checked, at one moment.

        Raises:
            StorageError: A row is damaged.
        """
        with self._faults(), self.reading():
            for row in self._connection.execute(
                "SELECT row, id, document, sequence, digest, vector, item_check, vector_check "
                "FROM items JOIN vectors USING (row) WHERE removed IS NULL ORDER BY row"
            ):
                yield self._record(*row)

    def verify(self) -> int:
        """Reads the whole file: SQLite's structure, and the checksums of every row.

        Returns:
            How many rows there are, removed ones included.

        Raises:
            StorageError: Something is damaged.
        """
        count = 0
        with self._faults(), self.reading():
            IndexPlan.from_json(self.state.plan)
            (said,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise self._broken(f"SQLite finds: {said}")
            for row in self._connection.execute(
                "SELECT row, id, document, sequence, digest, vector, item_check, vector_check "
                "FROM items LEFT JOIN vectors USING (row)"
            ):
                if row[5] is None or len(row[5]) != 4 * self.dimension:
                    raise self._damaged(row[0])
                self._record(*row)
                count += 1
            (vectors,) = self._connection.execute("SELECT count(*) FROM vectors").fetchone()
        if vectors != count:
            raise self._broken(f"{count} items and {vectors} vectors")
        return count

    def _live(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Live rows after a sequence number, ascending, with their vectors."""
        rows = [np.empty(0, np.int64)]
        vectors = [np.empty((0, self.dimension), np.float32)]
        # Rows and sequence numbers grow together. Asked for the order of rows, SQLite would read
        # the whole table for the newest few.
        source = "items INDEXED BY written" if sequence else "items"
        cursor = self._connection.execute(
            f"SELECT row, vector, vector_check FROM {source} JOIN vectors USING (row) "  # nosec B608
            f"WHERE sequence > ? AND removed IS NULL ORDER BY {'sequence' if sequence else 'row'}",
            (sequence,),
        )
        while found := cursor.fetchmany(_READ_ROWS):
            for row, vector, check in found:
                if zlib.crc32(vector) != check:
                    raise self._damaged(row)
            joined = np.frombuffer(b"".join(vector for _, vector, _ in found), np.float32)
            rows.append(np.array([row for row, *_ in found], np.int64))
            vectors.append(joined.reshape(len(found), self.dimension))
        return np.concatenate(rows), np.concatenate(vectors)

    def _record(
        self,
        row: int,
        id_: str,
        document: str,
        sequence: int,
        digest: str,
        blob: bytes,
        item: int,
        vector: int,
    ) -> StoredItem:
        if (item, vector) != (item_check(id_, document, digest), zlib.crc32(blob)):
            raise self._damaged(row)
        return StoredItem(row, id_, document, np.frombuffer(blob, np.float32), sequence, digest)

    def _damaged(self, row: int) -> StorageError:
        return self._broken(f"row {row} is damaged: its checksum is wrong")

    def _broken(self, what: str) -> StorageError:
        return StorageError(
            f"{str(self.folder / STORE_FILE)!r}: {what}; put a backup in its place (`lensemble "
            "index restore`), or build the index again",
            field="index",
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What reading a damaged file can raise, as an error that names the file.

        A flipped bit in a record's head makes a value one of another type or length.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise storage_error(self.folder / STORE_FILE, error) from error
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise self._broken(f"a value in it cannot be read ({error})") from error


def item_check(id_: str, document: str, digest: str) -> int:
    """Checksum of an item without its vector."""
    return zlib.crc32("\0".join((id_, digest, document)).encode())


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if it is not there, as between two renames."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
