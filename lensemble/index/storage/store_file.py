"""A store's open SQLite file: its state, consistent reads, and errors that name the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.schema import FORMAT, STORE_FILE, StoreState
from lensemble.index.storage.sqlite import storage_error, transaction
from lensemble_contract.errors import InvalidInputError, StorageError


class StoreFile:
    """An open store; it must not be used by two threads at once.

    Args:
        folder: folder of the index.
        connection: open connection to the store's file.

    Attributes:
        folder: folder of the index.
        profile_name: name of the profile of the vectors.
        profile_hash: hash of that profile.
        dimension: length D of the vectors.

    Raises:
        InvalidInputError: The file has another format.
        StorageError: The file is damaged.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self._connection = folder, connection
        self._path = folder / STORE_FILE
        self._inode = _inode(self._path)
        with self._storage_errors():
            (format_,) = connection.execute("SELECT format FROM state").fetchone() or (None,)
        if format_ != FORMAT:
            raise InvalidInputError(
                f"{str(self._path)!r} has format {format_}; expected {FORMAT}: build the index "
                "again",
                field="index",
            )
        state = self.state
        self.profile_name, self.profile_hash = state.profile_name, state.profile_hash
        self.dimension = state.dimension

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_replaced(self) -> bool:
        """Whether another file has taken the place of the open one, as after `restore`.

        Costs one `stat` call.
        """
        return _inode(self._path) not in (self._inode, None)

    @property
    def state(self) -> StoreState:
        """The current state of the store.

        Raises:
            StorageError: The state is damaged.
        """
        with self._storage_errors():
            *columns, checksum = self._connection.execute("SELECT * FROM state").fetchone()
            state = StoreState(*columns)
        if state.checksum != checksum:
            raise self._damage("the row of the table `state` has a wrong checksum")
        return state

    @property
    def sequence(self) -> int:
        """Sequence number of the last change."""
        return self.state.sequence

    @property
    def snapshot(self) -> str:
        """Name of the current snapshot; empty if there is none."""
        return self.state.snapshot

    @property
    def plan(self) -> IndexPlan:
        """Index plan of the next snapshot."""
        return IndexPlan.from_json(self.state.plan)

    @property
    def data_version(self) -> int:
        """A number that changes when another connection has committed; it reads no table."""
        with self._storage_errors():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def fields(self) -> list[str]:
        """Document fields that have an SQL index, sorted by name."""
        with self._storage_errors():
            names = self._connection.execute(
                "SELECT substr(name, 7) FROM sqlite_master WHERE name LIKE 'field:%' ORDER BY name"
            ).fetchall()
        return [name for (name,) in names]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads in the `with` block see one state of the store; other processes may write."""
        if self._connection.in_transaction:
            yield
            return
        try:
            with transaction(self._connection, "DEFERRED"):
                yield
        except sqlite3.Error as error:
            raise storage_error(self._path, error) from error

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Raises a `StorageError` that names the file for every error that damage can cause."""
        try:
            yield
        except sqlite3.Error as error:
            raise storage_error(self._path, error) from error
        # A flipped bit in the header of a SQLite record gives a value another type or length, on
        # which Python's conversions fail.
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise self._damage(f"a value in it cannot be read ({error})") from error

    def _row_damage(self, row: int, what: str = "its checksum is wrong") -> StorageError:
        return self._damage(f"row {row} is damaged: {what}")

    def _damage(self, what: str) -> StorageError:
        return StorageError(
            f"{str(self._path)!r}: {what}; put a backup in its place (`lensemble index restore`), "
            "or build the index again",
            field="index",
        )


def _inode(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if it does not exist, as is possible between two renames."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
