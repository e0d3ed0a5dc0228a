"""The truth of an index: one SQLite file with every item's id, vector and document.

All else that searches (`snapshot`, `delta`) is derived from it and can be made again. A write is
acknowledged after its commit reached the disk (WAL, `synchronous=FULL`). An item that is written
again gets a new row, and its old row a tombstone, in one transaction; a row number is never used
twice. Every change has a sequence number, so that a searcher can ask what came after the last one
it knows. SQLite has no checksums of its own: each row carries two.

    items    row, id, document, sequence of its writing and of its removal (NULL: live), checks
    vectors  row, vector
    state    one line: format, profile, dimension, last sequence, sequence purged through, snapshot
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index.records import Change, Contents, Delete, News, Record, Upsert, check_change
from lensemble.index.sqlite import connect, storage_error, transaction
from lensemble.profile import Profile
from lensemble_client.errors import InvalidInputError, LensembleError, StorageError

FORMAT = 2
FILE = "store.sqlite"

_PAGE_BYTES = 8192  # a 2,048-dimensional vector fills one page and a bit
_READ_ROWS = 4096

_SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    removed INTEGER,
    item_check INTEGER NOT NULL,
    vector_check INTEGER NOT NULL
);
CREATE UNIQUE INDEX live ON items (id) WHERE removed IS NULL;
CREATE INDEX written ON items (sequence);
CREATE INDEX gone ON items (removed) WHERE removed IS NOT NULL;
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE state (
    format INTEGER NOT NULL,
    profile_name TEXT NOT NULL,
    profile_hash TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    snapshot TEXT NOT NULL
);
"""


class Purged(Exception):
    """Tombstones that the reader has not seen are gone."""


class Store:
    """An open store; one caller at a time.

    Args:
        folder: Of the index.
        connection: To its file.

    Attributes:
        profile_name: What the vectors were made under.
        profile_hash: The same, as a hash.
        dimension: Length of the vectors.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self._connection = folder, connection
        with self._faults():
            state = connection.execute(
                "SELECT format, profile_name, profile_hash, dimension FROM state"
            ).fetchone()
        if state is None or state[0] != FORMAT:
            raise InvalidInputError(
                f"{str(folder / FILE)!r} has format {state and state[0]}; expected {FORMAT}",
                field="index",
            )
        self.profile_name: str = state[1]
        self.profile_hash: str = state[2]
        self.dimension: int = state[3]

    @classmethod
    def create(cls, folder: Path, profile: Profile, dimension: int) -> Self:
        """Makes an empty store.

        Args:
            folder: Where; made if missing.
            profile: What the vectors are made under.
            dimension: Their length.

        Raises:
            InvalidInputError: There is one already.
            StorageError: It cannot be written.
        """
        path = folder / FILE
        if path.exists():
            raise InvalidInputError(f"{str(path)!r} is there already", field="index")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = connect(path, "rwc")
            connection.executescript(f"PRAGMA page_size = {_PAGE_BYTES}; PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            connection.execute(
                "INSERT INTO state VALUES (?, ?, ?, ?, 0, 0, '')",
                (FORMAT, profile.name, profile.hash, dimension),
            )
            connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot make {str(path)!r}: {error}", field="index") from error
        return cls(folder, connection)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a store; in a folder that cannot be written to, for reading.

        Raises:
            InvalidInputError: There is none, or it is of another format.
            StorageError: It is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            raise InvalidInputError(
                f"no {FILE} in {str(folder)!r}: not an index; build one with `lensemble index "
                "build`",
                field="index",
            )
        mode = "rw"
        if not os.access(folder, os.W_OK):
            # Without a log beside it nobody writes, and SQLite need not make one to read.
            mode = "ro" if path.with_name(f"{FILE}-wal").exists() else "ro&immutable=1"
        try:
            connection = connect(path, mode)
        except sqlite3.Error as error:
            raise storage_error(path, error) from error
        return cls(folder, connection)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sequence(self) -> int:
        """The number of the last change."""
        with self._faults():
            return int(self._connection.execute("SELECT sequence FROM state").fetchone()[0])

    @property
    def version(self) -> int:
        """A number that is another one after another connection committed; cheap to ask."""
        with self._faults():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def snapshot(self) -> str:
        """Name of the current snapshot; empty if there is none."""
        with self._faults():
            return str(self._connection.execute("SELECT snapshot FROM state").fetchone()[0])

    def set_snapshot(self, name: str) -> None:
        """Makes a snapshot the current one, for every reader, at once.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            self._connection.execute("UPDATE state SET snapshot = ?", (name,))

    def __len__(self) -> int:
        with self._faults():
            (count,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE removed IS NULL"
            ).fetchone()
        return int(count)

    def write(self, changes: Sequence[Change]) -> list[int | LensembleError]:
        """Applies changes in order, in one transaction; on return they are on the disk.

        An upsert that changes nothing is not written again.

        Args:
            changes: A bad one is refused alone.

        Returns:
            For each its sequence number (0: there was nothing to delete), or why it was refused.

        Raises:
            StorageError: Nothing was written: the disk is full, the file damaged or locked.
        """
        results = [self._refusal(change) for change in changes]
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            (sequence,) = self._connection.execute("SELECT sequence FROM state").fetchone()
            for n, change in enumerate(changes):
                if not isinstance(results[n], LensembleError):
                    sequence, results[n] = self._apply(change, sequence)
            self._connection.execute("UPDATE state SET sequence = ?", (sequence,))
        return results

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """Live items by their ids; None where there is none.

        Raises:
            StorageError: A row is damaged.
        """
        found = []
        with self._faults(), transaction(self._connection, "DEFERRED"):
            for id_ in ids:
                row = self._connection.execute(
                    "SELECT row, id, document, item_check, vector_check, vector "
                    "FROM items JOIN vectors USING (row) WHERE id = ? AND removed IS NULL",
                    (id_,),
                ).fetchone()
                found.append(row and self._record(*row))
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
                for row, id_, document, check in self._connection.execute(
                    f"SELECT row, id, document, item_check FROM items WHERE row IN ({marks})", part
                ):
                    if check != _item_check(id_, document):
                        raise self._damaged(row)
                    found[row] = (id_, document)
        return found

    def since(self, sequence: int) -> News:
        """What changed after a sequence number.

        Args:
            sequence: Of the last change that the reader knows; 0 knows nothing.

        Raises:
            Purged: Tombstones after `sequence` were purged; start from a newer snapshot.
            StorageError: A row is damaged.
        """
        with self._faults(), transaction(self._connection, "DEFERRED"):
            last, purged = self._connection.execute("SELECT sequence, purged FROM state").fetchone()
            if 0 < sequence < purged:
                raise Purged
            removed = self._connection.execute(
                "SELECT row, removed FROM items WHERE removed > ? ORDER BY removed", (sequence,)
            ).fetchall()
            rows, vectors = self._live(sequence)
        gone = np.array(removed, np.int64).reshape(-1, 2)
        return News(last, rows, vectors, gone[:, 0], gone[:, 1])

    def contents(self) -> Contents:
        """All that is live.

        Raises:
            StorageError: A row is damaged.
        """
        with self._faults(), transaction(self._connection, "DEFERRED"):
            (sequence,) = self._connection.execute("SELECT sequence FROM state").fetchone()
            given = self._connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'items'"
            ).fetchone()
            rows, vectors = self._live(0)
        return Contents(sequence, given[0] if given else 0, rows, vectors)

    def _live(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Live rows after a sequence number, ascending, with their vectors."""
        rows = [np.empty(0, np.int64)]
        vectors = [np.empty((0, self.dimension), np.float32)]
        cursor = self._connection.execute(
            "SELECT row, vector, vector_check FROM items JOIN vectors USING (row) "
            "WHERE sequence > ? AND removed IS NULL ORDER BY row",
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

    def purge(self, through: int) -> int:
        """Removes rows for good whose tombstones every searcher has, by way of a snapshot.

        Args:
            through: Sequence number that the oldest snapshot in use reaches.

        Returns:
            How many rows.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            self._connection.execute(
                "DELETE FROM vectors WHERE row IN (SELECT row FROM items WHERE removed <= ?)",
                (through,),
            )
            count = self._connection.execute(
                "DELETE FROM items WHERE removed <= ?", (through,)
            ).rowcount
            self._connection.execute("UPDATE state SET purged = max(purged, ?)", (through,))
        return count

    def _refusal(self, change: Change) -> int | LensembleError:
        try:
            check_change(change, self.dimension)
        except InvalidInputError as error:
            return error
        return 0

    def _apply(self, change: Change, sequence: int) -> tuple[int, int]:
        """Returns the last sequence number then, and the change's own."""
        execute = self._connection.execute
        old = execute(
            "SELECT row, document, vector, sequence FROM items JOIN vectors USING (row) "
            "WHERE id = ? AND removed IS NULL",
            (change.id,),
        ).fetchone()
        if isinstance(change, Delete) and old is None:
            return sequence, 0
        vector = b""
        if isinstance(change, Upsert):
            vector = np.ascontiguousarray(change.vector, np.float32).tobytes()
            if old is not None and old[1:3] == (change.document, vector):
                return sequence, old[3]
        sequence += 1
        if old is not None:
            execute("UPDATE items SET removed = ? WHERE row = ?", (sequence, old[0]))
        if isinstance(change, Upsert):
            check = _item_check(change.id, change.document)
            row = execute(
                "INSERT INTO items (id, document, sequence, item_check, vector_check) "
                "VALUES (?, ?, ?, ?, ?)",
                (change.id, change.document, sequence, check, zlib.crc32(vector)),
            ).lastrowid
            execute("INSERT INTO vectors VALUES (?, ?)", (row, vector))
        return sequence, sequence

    def _record(
        self, row: int, id_: str, document: str, item: int, vector: int, blob: bytes
    ) -> Record:
        if (item, vector) != (_item_check(id_, document), zlib.crc32(blob)):
            raise self._damaged(row)
        return Record(row, id_, document, np.frombuffer(blob, np.float32))

    def _damaged(self, row: int) -> StorageError:
        return StorageError(
            f"row {row} of {str(self.folder / FILE)!r} is damaged: its checksum is wrong; put a "
            "backup of the file in its place, or build the index again",
            field="index",
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise storage_error(self.folder / FILE, error) from error


def _item_check(id_: str, document: str) -> int:
    return zlib.crc32(document.encode(), zlib.crc32(id_.encode()))
