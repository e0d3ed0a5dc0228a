"""Writes a store: all items of an index, in one SQLite file, from which snapshots are made.

`schema` describes the tables. When an item is written again, it gets a new row, and its old row
becomes a tombstone in the same transaction. A row number is never used twice. Every change has a
sequence number, so a searcher can ask for everything after the last change that it knows.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lensemble.index.storage.changes import (
    Change,
    DocumentChange,
    Upsert,
    changed_item,
    checked_change,
)
from lensemble.index.storage.filter import field_expression
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.reader import StoreReader
from lensemble.index.storage.schema import (
    FORMAT,
    PAGE_BYTES,
    SCHEMA,
    STORE_FILE,
    StoreState,
    item_checksum,
)
from lensemble.index.storage.sqlite import connect, storage_error, transaction
from lensemble.profile import ProfileIdentity
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError

_MAX_FIELDS = 32


class Store(StoreReader):
    """An open store for reading and writing.

    One object must not be used by two threads at once, but any number of processes may open the
    same store.
    """

    @classmethod
    def create(
        cls, folder: Path, profile: ProfileIdentity, dimension: int, plan: IndexPlan | None = None
    ) -> Self:
        """Creates an empty store.

        Args:
            folder: folder of the index; created if it is missing.
            profile: profile of the vectors.
            dimension: length D of the vectors.
            plan: index plan of the snapshots; None for the default.

        Raises:
            InvalidInputError: The folder has a store already.
            StorageError: The store cannot be written.
        """
        path = folder / STORE_FILE
        if path.exists():
            raise InvalidInputError(f"{str(path)!r} exists already", field="index")
        plan = plan if plan is not None else IndexPlan()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = connect(path, "rwc")
            # With a write-ahead log, readers and one writer do not block each other.
            connection.executescript(f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
            state = StoreState(
                format=FORMAT,
                profile_name=profile.name,
                profile_hash=profile.hash,
                dimension=dimension,
                sequence=0,
                purged=0,
                snapshot="",
                previous="",
                plan=plan.to_json(),
            )
            marks = ",".join("?" * (len(state) + 1))
            connection.execute(f"INSERT INTO state VALUES ({marks})", (*state, state.checksum))  # nosec B608
            connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot make {str(path)!r}: {error}", field="index") from error
        return cls(folder, connection)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a store; only for reading if the folder is not writable.

        Raises:
            InvalidInputError: The folder has no store, or one of another format.
            StorageError: The store is damaged.
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
            # Even to read, SQLite would create a WAL file if there is none. But without a WAL file
            # there is no writer, so the file can be opened as immutable, which needs no WAL file.
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
        self, changes: Sequence[Change], *, checked: bool = False
    ) -> list[int | LensembleError]:
        """Applies changes in order, in one transaction; when it returns, they are on the disk.

        An upsert is skipped if it has the document and the digest of the stored item. If both
        digests are empty, the vectors must be equal, too.

        Args:
            changes: changes to apply; an invalid one is refused, and the others are applied.
            checked: whether all changes were returned by `checked_change` with this store's
                dimension, so that they need no other check.

        Returns:
            For each change its sequence number (0 if a delete found no item), or the reason for its
            refusal.

        Raises:
            StorageError: The disk is full, or the file is damaged or locked. Nothing was written.
        """
        accepted = list(changes) if checked else [self._checked(change) for change in changes]
        results: list[int | LensembleError] = []
        with self._storage_errors(), transaction(self._connection, "IMMEDIATE"):
            state = self.state
            sequence = state.sequence
            for change in accepted:
                if isinstance(change, LensembleError):
                    results.append(change)
                    continue
                try:
                    sequence, change_sequence = self._apply(change, sequence)
                except LensembleError as error:  # raised before it has written anything
                    results.append(error)
                else:
                    results.append(change_sequence)
            self._update_state(state._replace(sequence=sequence))
        return results

    def set_snapshot(self, name: str) -> None:
        """Makes a snapshot the current one for all readers at once.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._storage_errors(), transaction(self._connection, "IMMEDIATE"):
            state = self.state
            self._update_state(state._replace(snapshot=name, previous=state.snapshot))

    def set_plan(self, plan: IndexPlan) -> None:
        """Sets the index plan of the next snapshots.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._storage_errors(), transaction(self._connection, "IMMEDIATE"):
            self._update_state(self.state._replace(plan=plan.to_json()))

    def set_fields(self, fields: Sequence[str]) -> None:
        """Gives document fields an SQL index, so filters on them need not read every document.

        Args:
            fields: all fields that get an SQL index; the SQL indexes of other fields are deleted.

        Raises:
            InvalidInputError: A name is not a valid field name, or there are too many.
            StorageError: The file cannot be written.
        """
        if len(fields) > _MAX_FIELDS:
            raise InvalidInputError(
                f"{len(fields)} fields; expected at most {_MAX_FIELDS}", field="fields"
            )
        expressions = {field: field_expression(field) for field in fields}
        existing = set(self.fields)
        with self._storage_errors(), transaction(self._connection, "IMMEDIATE"):
            for field in existing - expressions.keys():
                self._connection.execute(f'DROP INDEX "field:{field}"')
            for field in expressions.keys() - existing:
                self._connection.execute(
                    f'CREATE INDEX "field:{field}" ON items ({expressions[field]}) '
                    "WHERE removed IS NULL"
                )

    def purge(self, through: int) -> int:
        """Deletes tombstones that no snapshot in use needs.

        A searcher that has not yet read one of them gets `TombstonesPurgedError` from
        `changes_since`, and reads the store again.

        Args:
            through: sequence number of the oldest snapshot in use; tombstones up to it are deleted.

        Returns:
            Number of deleted rows.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._storage_errors(), transaction(self._connection, "IMMEDIATE"):
            self._connection.execute(
                "DELETE FROM vectors WHERE row IN (SELECT row FROM items WHERE removed <= ?)",
                (through,),
            )
            count = self._connection.execute(
                "DELETE FROM items WHERE removed <= ?", (through,)
            ).rowcount
            state = self.state
            self._update_state(state._replace(purged=max(state.purged, through)))
        return count

    def copy_to(self, path: Path) -> None:
        """Writes a consistent copy of the file; other processes may write meanwhile.

        Args:
            path: path of the copy; it must not exist.

        Raises:
            StorageError: The copy cannot be written.
        """
        try:
            self._connection.execute("VACUUM INTO ?", (str(path),))
            copy = connect(path, "rw")
            try:
                copy.execute("PRAGMA journal_mode = WAL")  # VACUUM INTO does not copy this setting
            finally:
                copy.close()
        except sqlite3.Error as error:
            raise StorageError(
                f"cannot copy {str(self._path)!r} to {str(path.parent)!r}: {error}; see whether "
                "there is room on the disk, and check the index with `lensemble index verify`",
                field="backup",
            ) from error

    def _update_state(self, state: StoreState) -> None:
        columns = ", ".join(f"{name} = ?" for name in (*StoreState._fields, "state_check"))
        self._connection.execute(f"UPDATE state SET {columns}", (*state, state.checksum))  # nosec B608

    def _checked(self, change: Change) -> Change | LensembleError:
        try:
            return checked_change(change, self.dimension)
        except InvalidInputError as error:
            return error

    def _with_new_document(self, change: DocumentChange, old: tuple[Any, ...]) -> Upsert:
        """The stored item with the document of the change."""
        row, document, digest, _, vector, item_check, vector_check = old
        computed = item_checksum(change.id, document, digest), zlib.crc32(vector)
        if computed != (item_check, vector_check):
            raise self._row_damage(row)
        document, digest = changed_item(change, document, digest)
        return Upsert(change.id, np.frombuffer(vector, np.float32), document, digest)

    def _apply(self, change: Change, sequence: int) -> tuple[int, int]:
        """Applies a change.

        Args:
            change: checked change.
            sequence: the store's last sequence number before the change.

        Returns:
            The store's last sequence number once the change is applied, and the number to report
            for the change: its own, the stored item's if the upsert is skipped, or 0 if there is
            there is no item to delete or to change.

        Raises:
            LensembleError: A document cannot be changed; nothing was written.
        """
        execute = self._connection.execute
        old = execute(
            "SELECT row, document, digest, sequence, vector, item_check, vector_check "
            "FROM items JOIN vectors USING (row) WHERE id = ? AND removed IS NULL",
            (change.id,),
        ).fetchone()
        if not isinstance(change, Upsert) and old is None:
            return sequence, 0
        if isinstance(change, DocumentChange):
            change = self._with_new_document(change, old)
        vector = b""
        if isinstance(change, Upsert):
            vector = np.ascontiguousarray(change.vector, np.float32).tobytes()
            if old is not None and _is_unchanged(old, change, vector):
                return sequence, old[3]
        sequence += 1
        if old is not None:
            execute("UPDATE items SET removed = ? WHERE row = ?", (sequence, old[0]))
        if isinstance(change, Upsert):
            checksum = item_checksum(change.id, change.document, change.digest)
            row = execute(
                "INSERT INTO items (id, document, sequence, digest, item_check, vector_check) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (change.id, change.document, sequence, change.digest, checksum, zlib.crc32(vector)),
            ).lastrowid
            execute("INSERT INTO vectors VALUES (?, ?)", (row, vector))
        return sequence, sequence


def _is_unchanged(old: tuple[Any, ...], upsert: Upsert, vector: bytes) -> bool:
    """Whether an upsert equals the stored item; a damaged item equals none, so it is replaced."""
    _, document, digest, _, old_vector, item_check, vector_check = old
    if (document, digest) != (upsert.document, upsert.digest):
        return False
    computed = item_checksum(upsert.id, document, digest), zlib.crc32(old_vector)
    if computed != (item_check, vector_check):
        return False
    return bool(digest) or old_vector == vector
