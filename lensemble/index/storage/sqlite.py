"""SQLite as a store needs it: every commit on the disk, faults in words that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensemble_contract.errors import StorageError

CACHE_KIB = 64 * 1024
BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another one."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a file.

    Args:
        path: Of the file.
        mode: `rwc` makes it, `rw` needs it, `ro` only reads it; more of the URI may follow.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
        isolation_level=None,  # transactions are begun here, by name
    )
    connection.execute("PRAGMA synchronous = FULL")
    # Documents of hits lie all over the file, and SQLite keeps 2 MB of it by default.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    """What a fault of SQLite's means for whoever runs the index."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and "full" in text:
        todo = "make room on the disk; nothing of this write was kept, everything before it was"
    elif isinstance(error, sqlite3.OperationalError) and "locked" in text:
        todo = f"another writer held it for {BUSY_TIMEOUT_S:g} s; try again"
    elif any(sign in text for sign in ("disk I/O", "readonly", "unable to open")):
        todo = "see whether the disk and the file can be written"
    else:  # SQLite has many words for a file that it cannot make sense of
        todo = (
            "it is damaged; put a backup in its place (`lensemble index restore`), or build the "
            "index again"
        )
    return StorageError(f"{str(path)!r}: {text}; {todo}", field="index")


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commits at the end, or rolls back where an exception passes.

    Args:
        connection: Without a transaction under way.
        kind: `DEFERRED` to read one state of the file, `IMMEDIATE` to write.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
