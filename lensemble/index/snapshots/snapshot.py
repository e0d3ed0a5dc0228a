"""A snapshot: the vectors of the store at one sequence number, as a FAISS index in a folder.

A snapshot never changes. It is written under a temporary name, synced to the disk and renamed. The
store says which snapshot is the current one. `manifest` describes the files in the folder.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import hash_files
from lensemble.index.snapshots.faiss_index import faiss_module, flat_vectors
from lensemble.index.snapshots.kinds import KINDS, Kind
from lensemble.index.snapshots.manifest import (
    INDEX,
    MANIFEST,
    MANIFEST_ERRORS,
    ROWS,
    SNAPSHOTS,
    VECTORS,
    SnapshotManifest,
    check_files,
    data_files,
    manifest_checksum,
)
from lensemble.index.snapshots.tune import TunedIndex
from lensemble.index.storage.fsync import fsync_path
from lensemble.index.storage.read_results import StoreContents
from lensemble_contract.errors import StorageError


class DamagedSnapshotError(StorageError):
    """A snapshot cannot be loaded; the next compaction builds it again from the store."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot in memory.

    Attributes:
        name: name of its folder.
        manifest: description of the snapshot.
        index: `faiss.Index`, whose ids are positions.
        rows: (N,) int64, ascending; row number in the store, by position.
        vectors: (N, D) float32, the full-precision vectors, by position.
    """

    name: str
    manifest: SnapshotManifest
    index: Any = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    vectors: NDArray[np.float32] = field(repr=False)

    @property
    def kind(self) -> Kind:
        """Kind of the index."""
        return KINDS[self.manifest.kind]

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of row numbers, (M,) int64; rows that the snapshot lacks are left out."""
        positions, found = find_rows(self.rows, rows)
        return positions[found]

    @classmethod
    def from_contents(
        cls,
        contents: StoreContents,
        tuned: TunedIndex,
        *,
        profile_name: str,
        profile_hash: str,
    ) -> Self:
        """Makes a snapshot in memory.

        Args:
            contents: live rows of the store.
            tuned: FAISS index of the vectors in `contents`.
            profile_name: name of the profile of the vectors.
            profile_hash: hash of that profile.
        """
        manifest = SnapshotManifest(
            sequence=contents.sequence,
            last_row=contents.last_row,
            kind=tuned.kind.name,
            parameters=tuned.parameters,
            profile_name=profile_name,
            profile_hash=profile_hash,
            dimension=contents.vectors.shape[1],
            count=len(contents.rows),
            faiss=faiss_module().__version__,
            recall_at_10=tuned.recall,
        )
        name = f"{contents.sequence}-{tuned.kind.name}-{uuid.uuid4().hex[:8]}"
        return cls(name, manifest, tuned.index, contents.rows, contents.vectors)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Loads a snapshot.

        Args:
            folder: folder of the index.
            name: name of the snapshot.

        Raises:
            DamagedSnapshotError: The snapshot is missing, incomplete, damaged, or has another
                format.
        """
        path = folder / SNAPSHOTS / name
        try:
            manifest = check_files(path)
            index, rows, vectors = _read_files(path, manifest)
        except (*MANIFEST_ERRORS, RuntimeError) as error:  # FAISS raises RuntimeError
            raise DamagedSnapshotError(
                f"snapshot {str(path)!r} cannot be used ({error}); it will be made again from the "
                "store",
                field="index",
            ) from error
        return cls(name, manifest, index, rows, vectors)

    def save(self, folder: Path) -> None:
        """Writes the snapshot into the index's folder, completely or not at all, and syncs it.

        Raises:
            StorageError: The snapshot cannot be written.
        """
        target = folder / SNAPSHOTS / self.name
        part = target.with_name(f".{self.name}.part")
        try:
            part.mkdir(parents=True)
            faiss_module().write_index(self.index, str(part / INDEX))
            np.save(part / ROWS, self.rows)
            if not self.kind.exact:
                np.save(part / VECTORS, self.vectors)
            checksums = hash_files(part, data_files(self.kind))
            entries = {**asdict(self.manifest), "files": checksums}
            entries["check"] = manifest_checksum(entries)
            (part / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n")
            # FAISS and NumPy raise no error if the last bytes of a file could not be written, so
            # the files are read back.
            _read_files(part, self.manifest)
            # Everything must be on the disk before the rename makes the snapshot visible.
            for path in (*part.iterdir(), part):
                fsync_path(path)
            part.rename(target)
            fsync_path(target.parent)
        except (OSError, RuntimeError, ValueError) as error:  # FAISS raises RuntimeError
            shutil.rmtree(part, ignore_errors=True)
            raise StorageError(
                f"cannot write {str(target)!r}: {error}; make room on the disk, or let the server "
                "write there; the store is undamaged",
                field="index",
            ) from error


def find_rows(
    ascending: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Looks up row numbers among others.

    Args:
        ascending: (N,) int64, ascending; the row numbers among which to look.
        rows: (M,) int64, the row numbers to look up.

    Returns:
        For each of `rows` its position in `ascending`, (M,) int64, and whether it is there, (M,)
        bool. The position of a row that is not there means nothing.
    """
    positions: NDArray[np.int64] = np.searchsorted(ascending, rows)
    found = positions < len(ascending)
    found[found] = ascending[positions[found]] == rows[found]
    return positions, found


def _read_files(
    path: Path, manifest: SnapshotManifest
) -> tuple[Any, NDArray[np.int64], NDArray[np.float32]]:
    """FAISS index, rows and vectors of a snapshot's folder.

    Raises:
        OSError: A file cannot be read.
        RuntimeError: FAISS cannot read its file.
        ValueError: A file is too short, or the files do not belong together.
    """
    index = faiss_module().read_index(str(path / INDEX))
    rows = np.load(path / ROWS)
    exact = KINDS[manifest.kind].exact
    vectors = flat_vectors(index) if exact else np.load(path / VECTORS, mmap_mode="r")
    if not index.ntotal == len(rows) == len(vectors) == manifest.count:
        raise ValueError("index, rows, vectors and manifest have different numbers of rows")
    if not index.d == vectors.shape[1] == manifest.dimension:
        raise ValueError("index, vectors and manifest have different dimensions")
    return index, rows, vectors
