"""A snapshot: what the store held at one moment, as a FAISS index in a folder that never changes.

index.faiss      the vectors
rows.npy         (N,) int64, ascending: which row of the store stands at which position
manifest.json    sequence number, kind, profile, versions, measured recall, checksums of the two

It is written under another name, synced, and renamed; the store says which one is current. FAISS's
files carry no checksum, and most flipped bits load in silence, so ours are checked at every load.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import fingerprint
from lensemble.index.kinds import KINDS, Kind, build, faiss_module
from lensemble_client.errors import StorageError

FORMAT = 2
FOLDER = "snapshots"
MANIFEST, VECTORS, ROWS = "manifest.json", "index.faiss", "rows.npy"


class DamagedError(StorageError):
    """A snapshot that cannot be loaded; it can be made again from the store."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is.

    Attributes:
        sequence: The last change of the store that is in it.
        last_row: The highest row number that the store had given away by then.
        kind: Name of its `Kind`.
        parameters: Of the kind.
        profile_name: What the vectors were made under.
        profile_hash: The same, as a hash.
        dimension: Length of the vectors.
        count: How many.
        faiss: Version that wrote it.
        recall_at_10: Measured against exact search on a sample of its own vectors; 1 if exact.
        format: Of the folder.
    """

    sequence: int
    last_row: int
    kind: str
    parameters: dict[str, int]
    profile_name: str
    profile_hash: str
    dimension: int
    count: int
    faiss: str
    recall_at_10: float = 1.0
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A loaded snapshot.

    Attributes:
        name: Of its folder.
        manifest: What it is.
        index: `faiss.Index`; its ids are positions.
        rows: (N,) int64, ascending.
    """

    name: str
    manifest: Manifest
    index: Any = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return KINDS[self.manifest.kind]

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows stand, (M,) int64; those that are not in it are left out."""
        at = np.searchsorted(self.rows, rows)
        there = at < len(self.rows)
        there[there] = self.rows[at[there]] == rows[there]
        found: NDArray[np.int64] = at[there]
        return found

    @classmethod
    def make(
        cls,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        *,
        kind: Kind,
        parameters: dict[str, int],
        sequence: int,
        last_row: int,
        profile_name: str,
        profile_hash: str,
    ) -> Self:
        """Builds one in memory.

        Args:
            rows: (N,) int64, ascending.
            vectors: (N, D) float32, unit length, theirs.
            kind: How it is to be searched.
            parameters: Of the kind.
            sequence: See `Manifest`.
            last_row: See `Manifest`.
            profile_name: See `Manifest`.
            profile_hash: See `Manifest`.
        """
        manifest = Manifest(
            sequence=sequence,
            last_row=last_row,
            kind=kind.name,
            parameters=parameters,
            profile_name=profile_name,
            profile_hash=profile_hash,
            dimension=vectors.shape[1],
            count=len(rows),
            faiss=faiss_module().__version__,
        )
        name = f"{sequence}-{kind.name}-{uuid.uuid4().hex[:8]}"
        return cls(name, manifest, build(kind, vectors, parameters), rows)

    def save(self, folder: Path) -> None:
        """Writes it into the index's folder, all of it or nothing, and waits for the disk.

        Raises:
            StorageError: It cannot be written.
        """
        target = folder / FOLDER / self.name
        part = target.with_name(f".{self.name}.part")
        try:
            part.mkdir(parents=True)
            faiss_module().write_index(self.index, str(part / VECTORS))
            np.save(part / ROWS, self.rows)
            said = {**asdict(self.manifest), "files": fingerprint(part, [VECTORS, ROWS])}
            (part / MANIFEST).write_text(json.dumps(said, indent=2) + "\n")
            for path in (*part.iterdir(), part):
                _sync(path)
            part.rename(target)
            _sync(target.parent)
        except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError where it cannot write
            shutil.rmtree(part, ignore_errors=True)
            raise StorageError(
                f"cannot write {str(target)!r}: {error}; make room, or let the server write there; "
                "the store is whole",
                field="index",
            ) from error

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Reads one.

        Args:
            folder: Of the index.
            name: Of the snapshot.

        Raises:
            DamagedError: It is missing, torn, damaged, or of another format.
        """
        path = folder / FOLDER / name
        try:
            said = json.loads((path / MANIFEST).read_text())
            files = {name: tuple(entry) for name, entry in said.pop("files").items()}
            manifest = Manifest(**said)
            if manifest.format != FORMAT or manifest.kind not in KINDS:
                raise ValueError(f"format {manifest.format!r}, kind {manifest.kind!r}")
            if fingerprint(path, [VECTORS, ROWS]) != files:
                raise ValueError("a checksum is wrong")
            index = faiss_module().read_index(str(path / VECTORS))
            rows = np.load(path / ROWS)
            if not index.ntotal == len(rows) == manifest.count or index.d != manifest.dimension:
                raise ValueError("index, rows and manifest do not fit together")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise DamagedError(
                f"snapshot {str(path)!r} cannot be used ({error}); it will be made again from the "
                "store",
                field="index",
            ) from error
        return cls(name, manifest, index, rows)


def names(folder: Path) -> list[str]:
    """The snapshots in an index's folder, newest first; unfinished ones are not among them."""
    try:
        found = [path.name for path in (folder / FOLDER).iterdir() if path.name[0] != "."]
    except FileNotFoundError:
        return []
    numbers = {name: name.split("-")[0] for name in found}
    return sorted(
        (name for name in found if numbers[name].isdigit()),
        key=lambda name: int(numbers[name]),
        reverse=True,
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
