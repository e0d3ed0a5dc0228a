"""A whole new index in a folder, all of it or nothing."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensemble.index.maintenance.compact import LOCK_FILE, compact
from lensemble.index.maintenance.staging_folder import workspace
from lensemble.index.snapshots.snapshot import SNAPSHOTS
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.records import Upsert
from lensemble.index.storage.store import STORE_FILE, Store
from lensemble.profile import Identity, Profile
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError

_WRITE_ROWS = 4096
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # renameat2(2)
BACKUP_FILE = "backup.json"
"""Stands in a backup, beside what an index has."""
_OURS = {
    STORE_FILE,
    f"{STORE_FILE}-wal",
    f"{STORE_FILE}-shm",
    SNAPSHOTS,
    LOCK_FILE,
    BACKUP_FILE,
}
_FIRST_FORMAT = {"manifest.json", "index.faiss", "items.jsonl"}


def write_index(
    folder: Path,
    profile: Identity,
    vectors: NDArray[np.float32],
    ids: Sequence[str],
    documents: Sequence[str],
    *,
    digests: Sequence[str] | None = None,
    plan: IndexPlan | None = None,
    fields: Sequence[str] = (),
    threads: int = 1,
) -> None:
    """Writes an index and its first snapshot; an index that stands there is replaced.

    A server that has the replaced one open goes over to the new one with its next search.

    Vectors may be mapped from a file: they are written some thousands at a time. The snapshot is
    then made of all of them in memory.

    Args:
        folder: Missing, empty, or an index.
        profile: What the vectors were made under.
        vectors: (N, D) float32, unit length.
        ids: The caller's ids, N, unique.
        documents: JSON objects, N.
        digests: Of what each vector was made from (`Upsert`), N; None if not known.
        plan: How the index is to be searched.
        fields: Of documents, that get an index for filters.
        threads: To build with.

    Raises:
        InvalidInputError: The folder holds something else, lengths differ, an id stands twice, or
            an item cannot be stored.
        StorageError: It cannot be written.
    """
    if not len(vectors) == len(ids) == len(documents):
        raise InvalidInputError(
            f"{len(vectors)} vectors, {len(ids)} ids, {len(documents)} documents", field="index"
        )
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise InvalidInputError(f"id {id_!r} stands twice", field="index")
        seen.add(id_)
    folder = folder.resolve()
    check_target(folder)
    try:
        with workspace(folder) as made:
            with Store.create(made, profile, vectors.shape[1], plan) as store:
                store.set_fields(fields)
                items = zip(ids, vectors, documents, digests or [""] * len(ids), strict=True)
                # Nobody sees it before it is in place, so it need not be one transaction.
                while part := list(itertools.islice(items, _WRITE_ROWS)):
                    for result in store.write([Upsert(*item) for item in part]):
                        if isinstance(result, LensembleError):
                            raise result
            compact(made, threads=threads)
            put_in_place(made, folder)
    except OSError as error:
        raise StorageError(f"cannot make {str(folder)!r}: {error}", field="index") from error


def ensure_index(folder: Path, profile: Profile) -> None:
    """Makes an empty index where none is, for a server that takes writes.

    Several processes may do so at a time.

    Args:
        folder: Of the index.
        profile: What vectors will be made under, at its full length.

    Raises:
        InvalidInputError: The folder holds something else.
        StorageError: It cannot be written.
    """
    if (folder / STORE_FILE).is_file():
        return
    folder = folder.resolve()
    check_target(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with workspace(folder) as made:
            with Store.create(made, profile, profile.dimension):
                pass
            # Only if nobody was faster: a link does not replace.
            with contextlib.suppress(FileExistsError):
                os.link(made / STORE_FILE, folder / STORE_FILE)
    except OSError as error:
        raise StorageError(f"cannot make {str(folder)!r}: {error}", field="index") from error


def put_in_place(made: Path, folder: Path) -> None:
    """Puts a finished folder where an index belongs, in one step.

    One that stands there is then where the finished one was.

    Raises:
        StorageError: The file system cannot exchange two folders.
    """
    if not folder.exists():
        made.rename(folder)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(made), _AT_FDCWD, bytes(folder), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise StorageError(
            f"cannot put an index in the place of {str(folder)!r}: {os.strerror(code)}; remove "
            "that folder first",
            field="index",
        )


def check_target(folder: Path) -> None:
    """Refuses a folder that an index may not be written to: it would be replaced whole.

    Raises:
        InvalidInputError: It is a file, or holds anything but an index.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInputError(f"{str(folder)!r} is not a folder", field="index")
    names = {path.name for path in folder.iterdir()}
    ours = (STORE_FILE in names and names <= _OURS) or names == _FIRST_FORMAT
    if names and not ours:
        raise InvalidInputError(
            f"{str(folder)!r} holds something else than an index ({', '.join(sorted(names)[:3])}); "
            "give a new folder",
            field="index",
        )
