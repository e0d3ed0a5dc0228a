"""Creates an index in a folder, completely or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lensemble.index.maintenance.compact import LOCK_FILE, compact
from lensemble.index.maintenance.staging import put_in_place, staging_folder
from lensemble.index.snapshots.manifest import SNAPSHOTS
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble.profile import Profile, ProfileIdentity
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError

# Backups have this file besides the files of an index.
BACKUP_FILE = "backup.json"

_WRITE_ROWS = 4096
# Names that a folder with an index may contain.
_INDEX_FILES = {
    STORE_FILE,
    f"{STORE_FILE}-wal",
    f"{STORE_FILE}-shm",
    SNAPSHOTS,
    LOCK_FILE,
    BACKUP_FILE,
}
# All names in a folder with an index of the first format, which is replaced but not read.
_FIRST_FORMAT_FILES = {"manifest.json", "index.faiss", "items.jsonl"}


def write_index(
    folder: Path,
    profile: ProfileIdentity,
    vectors: NDArray[np.float32],
    ids: Sequence[str],
    documents: Sequence[str],
    *,
    digests: Sequence[str] | None = None,
    plan: IndexPlan | None = None,
    fields: Sequence[str] = (),
    threads: int = 1,
    existing: Literal["remove", "keep", "refuse"] = "remove",
) -> None:
    """Writes an index and its first snapshot; an existing index in the folder is replaced.

    A server that has the replaced index open uses the new one from its next search on.

    `vectors` may be a memory-mapped file, which is written to the store in parts of 4,096 items.
    Building the snapshot needs all vectors in memory.

    Args:
        folder: folder of the index; it must be missing or empty, or contain an index.
        profile: profile of the vectors.
        vectors: (N, D) float32, unit length.
        ids: N unique ids.
        documents: N JSON texts of objects.
        digests: N digests of the inputs of the vectors (`Upsert.digest`); None if unknown.
        plan: index plan; None for the default.
        fields: document fields that get an SQL index for filters.
        threads: number of threads to build the snapshot with.
        existing: what becomes of an index with items that is in the folder already: it is removed,
            it is kept as `replaced_folder`, or it stays and `InvalidInputError` is raised.

    Raises:
        InvalidInputError: The folder contains something other than an index, or an index that must
            not be replaced; the numbers of vectors, ids and documents differ, an id occurs twice,
            or an item cannot be stored.
        StorageError: The index cannot be written.
    """
    if not len(vectors) == len(ids) == len(documents):
        raise InvalidInputError(
            f"{len(vectors)} vectors, {len(ids)} ids, {len(documents)} documents; expected the "
            "same number of each",
            field="index",
        )
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise InvalidInputError(f"id {id_!r} occurs twice", field="index")
        seen.add(id_)
    folder = folder.resolve()
    keep = check_replaceable(folder, existing)
    try:
        with staging_folder(folder) as staging:
            with Store.create(staging, profile, vectors.shape[1], plan) as store:
                store.set_fields(fields)
                items = zip(ids, vectors, documents, digests or [""] * len(ids), strict=True)
                # No other process opens the staging folder, so the index may be written in several
                # transactions.
                while part := list(itertools.islice(items, _WRITE_ROWS)):
                    for result in store.write([Upsert(*item) for item in part]):
                        if isinstance(result, LensembleError):
                            raise result
            compact(staging, threads=threads)
            keep = check_replaceable(folder, existing)  # others may have written meanwhile
            put_in_place(staging, folder, keep)
    except OSError as error:
        raise StorageError(f"cannot make {str(folder)!r}: {error}", field="index") from error


def ensure_index(folder: Path, profile: Profile) -> None:
    """Creates an empty index if there is none, for a server that accepts writes.

    Several processes may call it at the same time.

    Args:
        folder: folder of the index.
        profile: profile of the vectors, whose full dimension the index gets.

    Raises:
        InvalidInputError: The folder contains something other than an index.
        StorageError: The index cannot be written.
    """
    if (folder / STORE_FILE).is_file():
        return
    folder = folder.resolve()
    check_target(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder) as staging:
            with Store.create(staging, profile, profile.dimension):
                pass
            # A hard link, unlike a rename, does not replace the store of a faster process.
            with contextlib.suppress(FileExistsError):
                os.link(staging / STORE_FILE, folder / STORE_FILE)
    except OSError as error:
        raise StorageError(f"cannot make {str(folder)!r}: {error}", field="index") from error


def check_replaceable(folder: Path, existing: Literal["remove", "keep", "refuse"]) -> Path | None:
    """Checks that a new index may take the place of what is in a folder.

    Args:
        folder: absolute path of the folder.
        existing: see `write_index`.

    Returns:
        The folder in which the index that is there now is to be kept; None if it is not kept.

    Raises:
        InvalidInputError: It is a file, or contains something other than an index, or an index with
            items, and `existing` is `refuse`.
    """
    check_target(folder)
    contents = _describe_contents(folder)
    if not contents or existing == "remove":
        return None
    kept = replaced_folder(folder)
    if existing == "refuse":
        raise InvalidInputError(
            f"{str(folder)!r} is {contents}. A new one in its place would have none of what was "
            "written since it was built: change it with `lensemble ingest` or `lensemble corpus "
            f"sync`, give another folder, or replace it and keep it as {kept.name!r} (--replace)",
            field="index",
        )
    check_target(kept)
    return kept


def replaced_folder(folder: Path) -> Path:
    """The folder in which an index is kept that a new one has replaced."""
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}.old")


def _describe_contents(folder: Path) -> str:
    """What index is in a folder, for a message; empty if there is none, or one without items."""
    if not (folder / STORE_FILE).is_file():
        return "an index of the first format" if folder.is_dir() and any(folder.iterdir()) else ""
    try:
        with Store.open(folder) as store:
            count, sequence = len(store), store.sequence
    except LensembleError as error:
        return f"an index that cannot be read ({error})"
    if not count:
        return ""
    return f"an index of {count:,} items, with the writes up to number {sequence:,}"


def check_target(folder: Path) -> None:
    """Checks that a folder may be replaced by an index, which deletes everything in it.

    Raises:
        InvalidInputError: It is a file, or a folder that contains something other than an index.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInputError(f"{str(folder)!r} is not a folder", field="index")
    names = {path.name for path in folder.iterdir()}
    is_index = (STORE_FILE in names and names <= _INDEX_FILES) or names == _FIRST_FORMAT_FILES
    if names and not is_index:
        raise InvalidInputError(
            f"{str(folder)!r} contains something other than an index "
            f"({', '.join(sorted(names)[:3])}); give a new folder",
            field="index",
        )
