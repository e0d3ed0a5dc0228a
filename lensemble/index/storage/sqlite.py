"""SQLite connections of a store: durable commits, and errors that tell the operator what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensemble_contract.errors import StorageError

CACHE_KIB = 64 * 1024
BUSY_TIMEOUT_S = 30.0  # seconds that a writer waits for another writer


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a SQLite file.

    Args:
        path: path of the file.
        mode: `rwc` creates the file if it is missing, `rw` requires it, `ro` opens it for reading
            only. More parameters of SQLite's file URI may follow.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
        isolation_level=None,  # `transaction` begins and ends transactions explicitly
    )
    # FULL syncs the log at every commit; in WAL mode, SQLite's NORMAL may lose the last commits
    # when the power fails.
    connection.execute("PRAGMA synchronous = FULL")
    # The documents of one result are spread over the whole file, and SQLite's default cache has
    # only 2 MB.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Begins a transaction; commits it at the end, or rolls it back after an exception.

    Args:
        connection: connection without an open transaction.
        kind: `DEFERRED` to read one consistent state of the file, `IMMEDIATE` to write.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    """Turns an error of SQLite into one that says what the operator can do about it."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and "full" in text:
        remedy = (
            "make room on the disk; this write was undone, and everything written before it is "
            "undamaged"
        )
    elif isinstance(error, sqlite3.OperationalError) and "locked" in text:
        remedy = f"another writer held it for {BUSY_TIMEOUT_S:g} s; try again"
    elif any(sign in text for sign in ("disk I/O", "readonly", "unable to open")):
        remedy = "see whether the disk and the file can be written"
    else:  # SQLite has many different messages for damaged files
        remedy = (
            "it is damaged; put a backup in its place (`lensemble index restore`), or build the "
            "index again"
        )
    return StorageError(f"{str(path)!r}: {text}; {remedy}", field="index")
