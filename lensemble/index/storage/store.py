"""The store: the truth about an index, in one SQLite file.

A written item gets a new row, and its old row a tombstone, in one transaction; a row number is
never used twice. Every change has a sequence number, so that a searcher can ask what came after the
last one it knows. SQLite has no checksums of its own: each row carries two.

    items    row, id, document, sequence of its writing and of its removal (NULL: live), digest of
             what its vector was made from, checks
    vectors  row, vector
    state    one line: format, profile, dimension, last sequence, sequence purged through, the two
             newest snapshots, plan of the next one, check
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lensemble.index.storage.filter import column
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.reader import (
    FORMAT,
    STORE_FILE,
    StoreReader,
    StoreState,
    TombstonesPurgedError,
    item_check,
)
from lensemble.index.storage.records import Change, Delete, Upsert, checked
from lensemble.index.storage.sqlite import connect, storage_error, transaction
from lensemble.profile import Identity
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError

__all__ = ["FORMAT", "STORE_FILE", "Store", "TombstonesPurgedError"]

_PAGE_BYTES = 8192  # a 2,048-dimensional vector fills one page and a bit
_MAX_FIELDS = 32

_SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    removed INTEGER,
    digest TEXT NOT NULL,
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
    snapshot TEXT NOT NULL,
    previous TEXT NOT NULL,
    plan TEXT NOT NULL,
    state_check INTEGER NOT NULL
);
"""


class Store(StoreReader):
    """An open store that is written to; one caller at a time, any number of processes."""

    @classmethod
    def create(
        cls, folder: Path, profile: Identity, dimension: int, plan: IndexPlan | None = None
    ) -> Self:
        """Makes an empty store.

        Args:
            folder: Where; made if missing.
            profile: What the vectors are made under.
            dimension: Their length.
            plan: How snapshots are to be searched.

        Raises:
            InvalidInputError: There is one already.
            StorageError: It cannot be written.
        """
        path = folder / STORE_FILE
        if path.exists():
            raise InvalidInputError(f"{str(path)!r} is there already", field="index")
        plan = plan if plan is not None else IndexPlan()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = connect(path, "rwc")
            connection.executescript(f"PRAGMA page_size = {_PAGE_BYTES}; PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            state = StoreState(
                FORMAT, profile.name, profile.hash, dimension, 0, 0, "", "", plan.to_json()
            )
            marks = ",".join("?" * (len(state) + 1))
            connection.execute(f"INSERT INTO state VALUES ({marks})", (*state, state.check))  # nosec B608
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
        path = folder / STORE_FILE
        if not path.is_file():
            raise InvalidInputError(
                f"no {STORE_FILE} in {str(folder)!r}: not an index; build one with `lensemble "
                "index build`",
                field="index",
            )
        mode = "rw"
        if not os.access(folder, os.W_OK):
            # Without a log beside it nobody writes, and SQLite need not make one to read.
            mode = "ro" if path.with_name(f"{STORE_FILE}-wal").exists() else "ro&immutable=1"
        try:
            connection = connect(path, mode)
        except sqlite3.Error as error:
            raise storage_error(path, error) from error
        try:
            return cls(folder, connection)
        except BaseException:
            connection.close()
            raise

    def write(
        self, changes: Sequence[Change], *, sound: bool = False
    ) -> list[int | LensembleError]:
        """Applies changes in order, in one transaction; on return they are on the disk.

        An upsert that changes nothing is not written again: the document is the same, and so is the
        vector, or what it was made from.

        Args:
            changes: A bad one is refused alone.
            sound: Whether all of them come from `records.checked`, for this store's dimension.

        Returns:
            For each its sequence number (0: there was nothing to delete), or why it was refused.

        Raises:
            StorageError: Nothing was written: the disk is full, the file damaged or locked.
        """
        kept = list(changes) if sound else [self._checked(change) for change in changes]
        results: list[int | LensembleError] = []
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            state = self.state
            sequence = state.sequence
            for change in kept:
                if isinstance(change, LensembleError):
                    results.append(change)
                    continue
                sequence, own = self._apply(change, sequence)
                results.append(own)
            self._put(state._replace(sequence=sequence))
        return results

    def set_snapshot(self, name: str) -> None:
        """Makes a snapshot the current one, for every reader, at once.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            state = self.state
            self._put(state._replace(snapshot=name, previous=state.snapshot))

    def set_plan(self, plan: IndexPlan) -> None:
        """Says how the next snapshot is to be searched.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            self._put(self.state._replace(plan=plan.to_json()))

    def set_fields(self, fields: Sequence[str]) -> None:
        """Gives fields of documents an index, so that filters on them need not read every document.

        Args:
            fields: All that are to have one; others lose theirs.

        Raises:
            InvalidInputError: One is no field name, or there are too many.
            StorageError: The file cannot be written.
        """
        if len(fields) > _MAX_FIELDS:
            raise InvalidInputError(f"{len(fields)}; at most {_MAX_FIELDS}", field="fields")
        columns = {field: column(field) for field in fields}
        there = set(self.fields)
        with self._faults(), transaction(self._connection, "IMMEDIATE"):
            for field in there - columns.keys():
                self._connection.execute(f'DROP INDEX "field:{field}"')
            for field in columns.keys() - there:
                self._connection.execute(
                    f'CREATE INDEX "field:{field}" ON items ({columns[field]}) '
                    "WHERE removed IS NULL"
                )

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
            state = self.state
            self._put(state._replace(purged=max(state.purged, through)))
        return count

    def copy_to(self, path: Path) -> None:
        """Writes a copy of the file as it is at this moment, while others write.

        Args:
            path: A new file.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            self._connection.execute("VACUUM INTO ?", (str(path),))
            copy = connect(path, "rw")
            try:
                copy.execute("PRAGMA journal_mode = WAL")  # a copy forgets it
            finally:
                copy.close()
        except sqlite3.Error as error:
            raise StorageError(
                f"cannot copy {str(self.folder / STORE_FILE)!r} to {str(path.parent)!r}: {error}; "
                "see whether there is room, and `lensemble index verify` the index",
                field="backup",
            ) from error

    def _put(self, state: StoreState) -> None:
        columns = ", ".join(f"{name} = ?" for name in (*StoreState._fields, "state_check"))
        self._connection.execute(f"UPDATE state SET {columns}", (*state, state.check))  # nosec B608

    def _checked(self, change: Change) -> Change | LensembleError:
        try:
            return checked(change, self.dimension)
        except InvalidInputError as error:
            return error

    def _apply(self, change: Change, sequence: int) -> tuple[int, int]:
        """Returns the last sequence number then, and the change's own."""
        execute = self._connection.execute
        old = execute(
            "SELECT row, document, digest, sequence, vector, item_check, vector_check "
            "FROM items JOIN vectors USING (row) WHERE id = ? AND removed IS NULL",
            (change.id,),
        ).fetchone()
        if isinstance(change, Delete) and old is None:
            return sequence, 0
        vector = b""
        if isinstance(change, Upsert):
            vector = np.ascontiguousarray(change.vector, np.float32).tobytes()
            if old is not None and _is_same(old, change, vector):
                return sequence, old[3]
        sequence += 1
        if old is not None:
            execute("UPDATE items SET removed = ? WHERE row = ?", (sequence, old[0]))
        if isinstance(change, Upsert):
            check = item_check(change.id, change.document, change.digest)
            row = execute(
                "INSERT INTO items (id, document, sequence, digest, item_check, vector_check) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (change.id, change.document, sequence, change.digest, check, zlib.crc32(vector)),
            ).lastrowid
            execute("INSERT INTO vectors VALUES (?, ?)", (row, vector))
        return sequence, sequence


def _is_same(old: tuple[Any, ...], change: Upsert, vector: bytes) -> bool:
    """Whether a stored item is what is to be written; a damaged one is not, and gets replaced."""
    _, document, digest, _, stored, item, check = old
    if (document, digest) != (change.document, change.digest):
        return False
    if (item, check) != (item_check(change.id, document, digest), zlib.crc32(stored)):
        return False
    return bool(digest) or stored == vector
