"""The journal of embedded items, with which interrupted work continues where it stopped.

It is an SQLite database with the vector of each embedded item and the error of each item that the
server refused. The key is a hash of what the item's vector depends on (`row_content.digest_of`; not
`Record.digest`). After a number of rows or seconds, the transaction is committed, which flushes it
to the disk. A process that is killed loses only the rows after the last commit. Each vector has a
checksum. A damaged vector counts as missing, so its item is embedded again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError, from_wire
from lensemble_corpus.journal_database import FILE, START_OVER, check_old_format, open_database

# A transaction is committed after this many rows, or this many seconds.
_COMMIT_ROWS, _COMMIT_S = 256, 2.0
# Number of vectors in one chunk that `read` yields.
_READ_ROWS = 1024


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """The properties that all vectors of a journal have in common.

    Attributes:
        profile: Hash of the profile under which they were made.
        dimension: Length of each vector.
        requested_dimensions: `dimensions` of the requests; None if they asked for the full length.
        embedder: Name of the embedder.
    """

    profile: str
    dimension: int
    requested_dimensions: int | None
    embedder: str


class Journal:
    """An open journal; a context manager. Only one process at a time can open it.

    Args:
        folder: Folder of the database; created if missing.
        start_over: Whether to remove an existing journal, damaged or not, and begin a new one.

    Attributes:
        settings: The properties that all vectors have in common; None if the journal had no vector
            when it was opened, and `begin` has not been called since.

    Raises:
        InvalidInputError: Another process has opened it, or it has another format.
        StorageError: The database is damaged, or cannot be read or written.
    """

    def __init__(self, folder: Path, *, start_over: bool = False) -> None:
        self._path = folder / FILE
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_old_format(folder, start_over)
            with self._translated_errors():
                self._database = open_database(self._path, start_over)
        except OSError as error:
            raise StorageError(f"cannot write {str(folder)!r}: {error}", field="out") from error
        try:
            self.settings = self._load_settings()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            self._database.close()

    def __len__(self) -> int:
        """Returns the number of vectors."""
        with self._translated_errors():
            (count,) = self._database.execute("SELECT count(*) FROM vectors").fetchone()
        return int(count)

    def begin(self, settings: VectorSettings) -> None:
        """Records the properties of all vectors; call it before the first `add`.

        Raises:
            StorageError: The database cannot be written.
        """
        text = json.dumps(asdict(settings))
        with self._translated_errors():
            self._database.execute("DELETE FROM settings")
            self._database.execute("INSERT INTO settings VALUES (?)", (text,))
        self.settings = settings

    def find(self, digest: bytes) -> int | LensembleError | None:
        """Looks an item up.

        Args:
            digest: `row_content.digest_of` the item, 16 bytes.

        Returns:
            The place of its vector (its row in the database), the error with which the server
            refused it, or None if the journal has neither.

        Raises:
            StorageError: The database is damaged, or cannot be read.
        """
        with self._translated_errors():
            vector = self._database.execute(
                "SELECT place, vector, crc FROM vectors WHERE digest = ?", (digest,)
            ).fetchone()
            refusal = self._database.execute(
                "SELECT error FROM refusals WHERE digest = ?", (digest,)
            ).fetchone()
        if refusal is not None:
            return from_wire(None, refusal[0])
        if vector is not None and zlib.crc32(digest + vector[1]) == vector[2]:
            return int(vector[0])
        return None

    def add(self, digest: bytes, vector: NDArray[np.float32]) -> int:
        """Adds the vector of an item, or replaces it.

        Args:
            digest: `row_content.digest_of` the item, 16 bytes.
            vector: (D,) float32.

        Returns:
            The place of the vector, for `read`.

        Raises:
            StorageError: The database cannot be written.
        """
        blob = np.ascontiguousarray(vector, "<f4").tobytes()
        with self._translated_errors():
            ((place,),) = self._database.execute(
                "INSERT INTO vectors (digest, vector, crc) VALUES (?, ?, ?) ON CONFLICT (digest) "
                "DO UPDATE SET vector = excluded.vector, crc = excluded.crc RETURNING place",
                (digest, blob, zlib.crc32(digest + blob)),
            ).fetchall()
        self._count_row()
        return int(place)

    def refuse(self, digest: bytes, error: LensembleError) -> None:
        """Records why an item has no vector, so that it is not sent again.

        Args:
            digest: `row_content.digest_of` the item, 16 bytes.
            error: The server's error.

        Raises:
            StorageError: The database cannot be written.
        """
        with self._translated_errors():
            self._database.execute(
                "INSERT OR REPLACE INTO refusals VALUES (?, ?)", (digest, error.to_wire())
            )
        self._count_row()

    def commit(self) -> None:
        """Waits until everything that was added is on the disk.

        Raises:
            StorageError: The database cannot be written; what was added since the last commit is
                lost.
        """
        if not self._database.in_transaction:
            return  # an earlier error ended the transaction
        with self._translated_errors():
            self._database.execute("COMMIT")
            self._database.execute("BEGIN IMMEDIATE")
        self._uncommitted, self._committed_at = 0, time.monotonic()

    def read(self, places: array[int]) -> Iterator[NDArray[np.float32]]:
        """Reads vectors.

        Args:
            places: Places of N vectors.

        Yields:
            Chunks (n, D) float32, in the order of the places.

        Raises:
            StorageError: The database is damaged, or cannot be read.
        """
        for start in range(0, len(places), _READ_ROWS):
            with self._translated_errors():
                blobs = [
                    self._database.execute(
                        "SELECT vector FROM vectors WHERE place = ?", (place,)
                    ).fetchone()[0]
                    for place in places[start : start + _READ_ROWS]
                ]
            yield np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1)

    def _count_row(self) -> None:
        self._uncommitted += 1
        age_s = time.monotonic() - self._committed_at
        if self._uncommitted >= _COMMIT_ROWS or age_s > _COMMIT_S:
            self.commit()

    def _load_settings(self) -> VectorSettings | None:
        # Without a vector, the settings do not matter: the next `begin` replaces them.
        with self._translated_errors():
            row = self._database.execute(
                "SELECT json FROM settings WHERE EXISTS (SELECT * FROM vectors)"
            ).fetchone()
        if row is None:
            return None
        try:
            return VectorSettings(**json.loads(row[0]))
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Converts errors of SQLite to the errors that the methods of this class document."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                # The user knows the folder of embeddings, which contains the folder of the journal.
                folder = self._path.parent.parent
                raise InvalidInputError(
                    f"another process is using {str(folder)!r}; wait until it ends",
                    field="out",
                ) from error
            raise StorageError(
                f"cannot read or write {str(self._path)!r}: {error}", field="out"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(f"{str(self._path)!r} is damaged ({error}); {START_OVER}", field="out")
