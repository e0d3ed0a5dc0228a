"""A whole new index in a folder, all of it or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensemble.index.compact import LOCK_FILE, compact
from lensemble.index.records import Upsert
from lensemble.index.snapshot import FOLDER
from lensemble.index.store import FILE, Store
from lensemble.profile import Profile
from lensemble_client.errors import InvalidInputError, LensembleError

_OURS = {FILE, f"{FILE}-wal", f"{FILE}-shm", FOLDER, LOCK_FILE}
_FIRST_FORMAT = {"manifest.json", "index.faiss", "items.jsonl"}


def write_index(
    folder: Path,
    profile: Profile,
    vectors: NDArray[np.float32],
    ids: Sequence[str],
    documents: Sequence[str],
) -> None:
    """Writes an index and its first snapshot; an index that stands there is replaced.

    A server that has the replaced one open goes on with it until it is started again.

    Args:
        folder: Missing, empty, or an index.
        profile: What the vectors were made under.
        vectors: (N, D) float32, unit length.
        ids: The caller's ids, N, unique.
        documents: JSON objects, N.

    Raises:
        InvalidInputError: The folder holds something else, lengths differ, an id stands twice, or
            an item cannot be stored.
        StorageError: It cannot be written.
    """
    if not len(vectors) == len(ids) == len(documents):
        raise InvalidInputError(
            f"{len(vectors)} vectors, {len(ids)} ids, {len(documents)} documents", field="index"
        )
    if len(set(ids)) != len(ids):
        twice = next(id_ for n, id_ in enumerate(ids) if id_ in ids[:n])
        raise InvalidInputError(f"id {twice!r} stands twice", field="index")
    folder = folder.resolve()
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        made.chmod(0o755)
        with Store.create(made, profile, vectors.shape[1]) as store:
            items = zip(ids, vectors, documents, strict=True)
            for result in store.write([Upsert(*item) for item in items]):
                if isinstance(result, LensembleError):
                    raise result
        compact(made)
        if folder.exists():
            old = made.with_name(f"{made.name}.old")
            folder.rename(old)
            made.rename(folder)
            shutil.rmtree(old)
        else:
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


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
    ours = (FILE in names and names <= _OURS) or names == _FIRST_FORMAT
    if names and not ours:
        raise InvalidInputError(
            f"{str(folder)!r} holds something else than an index ({', '.join(sorted(names)[:3])}); "
            "give a new folder",
            field="index",
        )
