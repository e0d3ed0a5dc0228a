"""Opens and locks the SQLite database of the journal, and refuses databases of other formats."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lensemble_contract.errors import InvalidInputError

FILE = "journal.sqlite"
FORMAT = 2
# Files of format 1, which did not use a database.
_OLD_FILES = ("vectors.f32", "done.jsonl", "settings.json", "lock")
_SCHEMA = """
CREATE TABLE settings (json TEXT NOT NULL);
CREATE TABLE vectors (
    place INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, vector BLOB NOT NULL, crc INTEGER
);
CREATE TABLE refusals (digest BLOB PRIMARY KEY, error TEXT NOT NULL);
"""
START_OVER = "embed all rows again (--again)"


def open_database(path: Path, start_over: bool) -> sqlite3.Connection:
    """Opens the database, locks it until it is closed, and begins a transaction.

    Args:
        path: File of the database; created if missing.
        start_over: Whether to replace an existing database, damaged or not, by an empty one.

    Raises:
        InvalidInputError: The database has another format.
        sqlite3.DatabaseError: The database is damaged, in use, or cannot be read or written.
    """
    try:
        database = _open(path)
        if not start_over:
            return database
        database.close()
    except sqlite3.OperationalError:  # locked, or no permission: it must not be removed
        raise
    except (sqlite3.DatabaseError, InvalidInputError):  # damaged, or of another format
        if not start_over:
            raise
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        # The lock is held until the database is closed.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        # Flush the log to the disk at every commit.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {FORMAT}")
            database.execute("COMMIT")
            database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise InvalidInputError(
                f"{str(path)!r} has format {version}, expected {FORMAT}; {START_OVER}", field="out"
            )
    except BaseException:
        database.close()
        raise
    return database


def check_old_format(folder: Path, start_over: bool) -> None:
    """Refuses a folder with files of format 1, or removes them if the journal starts over.

    Raises:
        InvalidInputError: The folder has such files, and the journal does not start over.
        OSError: A file cannot be removed.
    """
    old = [folder / name for name in _OLD_FILES if (folder / name).exists()]
    if old and not start_over:
        raise InvalidInputError(
            f"{str(old[0])!r} was written by an earlier version of Lensemble, which this one does "
            f"not read; {START_OVER}, or give another folder",
            field="out",
        )
    for path in old:
        path.unlink()
