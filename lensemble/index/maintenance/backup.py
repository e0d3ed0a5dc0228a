"""Copies of an index while others write: to keep, to put back, and to take elsewhere.

A backup is an index folder, at one moment, with checksums of all of it beside it (`backup.json`):
the store, and the snapshot that was current, so that nothing must be built when it is put back.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lensemble.checkpoint import fingerprint
from lensemble.index.maintenance.create import BACKUP_FILE, check_target, put_in_place
from lensemble.index.maintenance.staging_folder import workspace
from lensemble.index.snapshots.snapshot import (
    SNAPSHOTS,
    DamagedError,
    Snapshot,
    newest_snapshot_sequence,
    sync,
)
from lensemble.index.storage.store import STORE_FILE, Store
from lensemble_contract.errors import InvalidInputError, StorageError

VECTORS_FILE, ITEMS_FILE = "vectors.npy", "items.jsonl"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        rows: In the store, removed ones included.
        items: Live ones.
        snapshot: Name of the current snapshot; empty if there is none.
        damage: Why the current snapshot cannot be used; empty if it can, or if there is none.
        sequence: The store's last change.
        newest: The last change that any snapshot was made of.
    """

    rows: int
    items: int
    snapshot: str
    damage: str
    sequence: int
    newest: int


def verify(folder: Path) -> VerifyReport:
    """Reads all of an index: the store's structure and rows, and the current snapshot.

    Raises:
        InvalidInputError: There is no index.
        StorageError: The store is damaged. A damaged snapshot is reported: it can be made again.
    """
    newest = newest_snapshot_sequence(folder)
    with Store.open(folder) as store:
        rows, items, current = store.verify(), len(store), store.snapshot
        sequence = store.sequence
    damage = ""
    if current:
        try:
            Snapshot.load(folder, current)
        except DamagedError as error:
            damage = error.message
    return VerifyReport(rows, items, current, damage, sequence, newest)


def back_up(folder: Path, out: Path) -> int:
    """Writes a backup, all of it or nothing; others go on writing and searching.

    Args:
        folder: Of the index.
        out: A new or empty folder.

    Returns:
        How many items are in it.

    Raises:
        InvalidInputError: There is no index, or `out` holds something.
        StorageError: The store is damaged, or the copy cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{str(out)!r} holds something; give a new folder", field="backup")
    out = out.resolve()
    try:
        with workspace(out) as made:
            items = _copy(folder, made)
            if out.exists():
                out.rmdir()
            made.rename(out)
        sync(out.parent)
    except OSError as error:
        raise StorageError(f"cannot write {str(out)!r}: {error}", field="backup") from error
    return items


def _copy(folder: Path, made: Path) -> int:
    """A backup in a folder, on the disk; says how many items are in it."""
    with Store.open(folder) as store:
        store.copy_to(made / STORE_FILE)
    with Store.open(made) as copy:
        copy.verify()
        items, current = len(copy), copy.snapshot
        try:
            if current:
                shutil.copytree(folder / SNAPSHOTS / current, made / SNAPSHOTS / current)
        except OSError:  # compacted away meanwhile, or damaged: the store is enough
            shutil.rmtree(made / SNAPSHOTS, ignore_errors=True)
            copy.set_snapshot("")
    files = fingerprint(made, _files(made))
    (made / BACKUP_FILE).write_text(json.dumps({"items": items, "files": files}) + "\n")
    for path in (*made.rglob("*"), made):
        sync(path)
    return items


def restore(backup: Path, folder: Path) -> int:
    """Puts a backup in an index's place; servers that follow it go over with their next call.

    Args:
        backup: Written by `back_up`.
        folder: Of the index; one that stands there is replaced, with all that was written to it.

    Returns:
        How many items are in it.

    Raises:
        InvalidInputError: That is no backup, or `folder` holds something else than an index.
        StorageError: The backup is damaged, or cannot be copied; the index is as it was.
    """
    try:
        said = json.loads((backup / BACKUP_FILE).read_text())
        expected = {name: tuple(entry) for name, entry in said["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{str(backup)!r} is no backup ({error}); make one with `lensemble index snapshot`",
            field="backup",
        ) from error
    folder = folder.resolve()
    check_target(folder)
    try:
        with workspace(folder) as made:
            for name in expected:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(backup / name, made / name)
                sync(made / name)
            if fingerprint(made, expected) != expected:
                raise StorageError(
                    f"{str(backup)!r} is damaged: a checksum is wrong; take another backup",
                    field="backup",
                )
            put_in_place(made, folder)
            sync(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot restore {str(folder)!r}: {error}", field="index") from error
    return int(said["items"])


def export(folder: Path, out: Path, *, progress: bool = False) -> int:
    """Writes every item in formats that others read: NumPy and JSON lines, in the same order.

    Args:
        folder: Of the index.
        out: Folder for `vectors.npy`, (N, D) float32, and `items.jsonl`, `{"_id": ..., "document":
            {...}}`; neither may be there.
        progress: Whether to show a progress bar.

    Returns:
        How many items.

    Raises:
        InvalidInputError: There is no index, or one of the files is there.
        StorageError: The store is damaged, or the files cannot be written.
    """
    for name in (VECTORS_FILE, ITEMS_FILE):
        if (out / name).exists():
            raise InvalidInputError(f"{str(out / name)!r} is there already", field="out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            Store.open(folder) as store,
            store.reading(),
            (out / ITEMS_FILE).open("w") as lines,
            (out / VECTORS_FILE).open("wb") as vectors,
        ):
            shape = (len(store), store.dimension)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(vectors, header)  # type: ignore[no-untyped-call]
            records = tqdm(store.records(), "export", shape[0], unit="item", disable=not progress)
            for record in records:  # not through a mapped file: a full disk would end the process
                vectors.write(record.vector.tobytes())
                said = {"_id": record.id, "document": json.loads(record.document)}
                lines.write(json.dumps(said, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {str(out)!r}: {error}", field="out") from error
    return shape[0]


def _files(folder: Path) -> list[str]:
    """Names of all files under a folder that belong to a backup."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(f"{STORE_FILE}-")
    ]
