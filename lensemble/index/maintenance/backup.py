"""Makes backups of an index while other processes write to it, and restores them.

A backup is an index folder at one sequence number. It contains the store and the current snapshot,
so nothing must be built after a restore, and `backup.json` with the checksums of all files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lensemble.checkpoint import hash_files
from lensemble.index.maintenance.create import BACKUP_FILE, check_target
from lensemble.index.maintenance.staging import put_in_place, staging_folder
from lensemble.index.snapshots.manifest import SNAPSHOTS
from lensemble.index.storage.fsync import fsync_path
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError, StorageError


def back_up(folder: Path, out: Path) -> int:
    """Writes a backup, completely or not at all; other processes may write and search meanwhile.

    Args:
        folder: folder of the index.
        out: folder of the backup; it must be missing or empty.

    Returns:
        Number of items in the backup.

    Raises:
        InvalidInputError: There is no index, or `out` is not empty.
        StorageError: The store is damaged, or the backup cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{str(out)!r} is not empty; give a new folder", field="backup")
    out = out.resolve()
    try:
        with staging_folder(out) as staging:
            items = _write_backup(folder, staging)
            if out.exists():
                out.rmdir()
            staging.rename(out)
        fsync_path(out.parent)
    except OSError as error:
        raise StorageError(f"cannot write {str(out)!r}: {error}", field="backup") from error
    return items


def restore(backup: Path, folder: Path) -> int:
    """Replaces an index by a backup; servers that have the index open switch at their next call.

    Args:
        backup: folder that `back_up` wrote.
        folder: folder of the index. An index in it is replaced, and everything that was written to
            it is lost.

    Returns:
        Number of items in the backup.

    Raises:
        InvalidInputError: `backup` is not a backup, or `folder` contains something other than an
            index.
        StorageError: The backup is damaged, or cannot be copied; the index is unchanged.
    """
    try:
        entries = json.loads((backup / BACKUP_FILE).read_text())
        checksums = {name: tuple(entry) for name, entry in entries["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{str(backup)!r} is not a backup ({error}); make one with `lensemble index snapshot`",
            field="backup",
        ) from error
    folder = folder.resolve()
    check_target(folder)
    try:
        with staging_folder(folder) as staging:
            for name in checksums:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(backup / name, staging / name)
                fsync_path(staging / name)
            if hash_files(staging, checksums) != checksums:
                raise StorageError(
                    f"{str(backup)!r} is damaged: a checksum is wrong; take another backup",
                    field="backup",
                )
            put_in_place(staging, folder)
            fsync_path(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot restore {str(folder)!r}: {error}", field="index") from error
    return int(entries["items"])


def _write_backup(folder: Path, staging: Path) -> int:
    """Writes and syncs a backup in the staging folder; returns the number of its items."""
    with Store.open(folder) as store:
        store.copy_to(staging / STORE_FILE)
    with Store.open(staging) as copy:
        copy.verify()
        items, current = len(copy), copy.snapshot
        try:
            if current:
                shutil.copytree(folder / SNAPSHOTS / current, staging / SNAPSHOTS / current)
        except OSError:
            # A compaction has deleted the snapshot meanwhile, or it is damaged. The backup is
            # complete without it, because a snapshot can be made from the store.
            shutil.rmtree(staging / SNAPSHOTS, ignore_errors=True)
            copy.set_snapshot("")
    checksums = hash_files(staging, _backup_files(staging))
    (staging / BACKUP_FILE).write_text(json.dumps({"items": items, "files": checksums}) + "\n")
    for path in (*staging.rglob("*"), staging):
        fsync_path(path)
    return items


def _backup_files(folder: Path) -> list[str]:
    """Relative paths of the files under a folder that belong to a backup.

    SQLite's other files (`-wal`, `-shm`) do not, because they are empty after the store is closed.
    """
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(f"{STORE_FILE}-")
    ]
