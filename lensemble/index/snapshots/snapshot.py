"""A snapshot: what the store held at one moment, as a FAISS index in a folder that never changes.

index.faiss      the vectors, as the kind of index keeps them
vectors.npy      (N, D) float32, the whole vectors, where the kind does not keep them; mapped into
                 memory, so that processes share them and only what is looked at is read
rows.npy         (N,) int64, ascending: which row of the store stands at which position
manifest.json    sequence number, kind, profile, versions, measured recall, checksums of the others

It is written under another name, synced, and renamed; the store says which one is current. FAISS's
files carry no checksum, and most flipped bits load in silence, so ours are checked at every load.
"""

from __future__ import annotations

import hashlib
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
from lensemble.index.snapshots.kinds import KINDS, Kind, faiss_module, flat_vectors
from lensemble.index.snapshots.tune import TunedIndex
from lensemble.index.storage.records import StoreContents
from lensemble_contract.errors import StorageError

FORMAT = 4
SNAPSHOTS = "snapshots"
MANIFEST, INDEX, VECTORS, ROWS = "manifest.json", "index.faiss", "vectors.npy", "rows.npy"


class DamagedError(StorageError):
    """A snapshot that cannot be loaded; it can be made again from the store."""


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot is.

    Attributes:
        sequence: The last change of the store that is in it.
        last_row: The highest row number that the store had given away by then.
        kind: Name of its `Kind`.
        parameters: Of the kind, in full.
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
        vectors: (N, D) float32, the whole vectors.
    """

    name: str
    manifest: SnapshotManifest
    index: Any = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    vectors: NDArray[np.float32] = field(repr=False)

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
        contents: StoreContents,
        tuned: TunedIndex,
        *,
        profile_name: str,
        profile_hash: str,
    ) -> Self:
        """Puts one together in memory.

        Args:
            contents: Of the store.
            tuned: A FAISS index of its vectors, and how it is to be searched.
            profile_name: See `Manifest`.
            profile_hash: See `Manifest`.
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

    def save(self, folder: Path) -> None:
        """Writes it into the index's folder, all of it or nothing, and waits for the disk.

        Raises:
            StorageError: It cannot be written.
        """
        target = folder / SNAPSHOTS / self.name
        part = target.with_name(f".{self.name}.part")
        try:
            part.mkdir(parents=True)
            faiss_module().write_index(self.index, str(part / INDEX))
            np.save(part / ROWS, self.rows)
            if not self.kind.exact:
                np.save(part / VECTORS, self.vectors)
            said = {**asdict(self.manifest), "files": fingerprint(part, _files(self.kind))}
            said["check"] = _check(said)
            (part / MANIFEST).write_text(json.dumps(said, indent=2) + "\n")
            # FAISS and NumPy say nothing where the last bytes could not be written.
            _read(part, self.manifest)
            for path in (*part.iterdir(), part):
                sync(path)
            part.rename(target)
            sync(target.parent)
        except (OSError, RuntimeError, ValueError) as error:  # FAISS raises RuntimeError
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
        path = folder / SNAPSHOTS / name
        try:
            manifest, files = _manifest(path)
            if fingerprint(path, _files(KINDS[manifest.kind])) != files:
                raise ValueError("a checksum is wrong")
            index, rows, vectors = _read(path, manifest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise DamagedError(
                f"snapshot {str(path)!r} cannot be used ({error}); it will be made again from the "
                "store",
                field="index",
            ) from error
        return cls(name, manifest, index, rows, vectors)


def read_manifest(folder: Path, name: str) -> SnapshotManifest | None:
    """What a snapshot says it is, without a look at its files; None if it does not say.

    Args:
        folder: Of the index.
        name: Of the snapshot.
    """
    try:
        return _manifest(folder / SNAPSHOTS / name)[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_intact(folder: Path, name: str) -> bool:
    """Whether every checksum of a snapshot is right; reads all of it, and keeps none.

    Args:
        folder: Of the index.
        name: Of the snapshot.
    """
    path = folder / SNAPSHOTS / name
    try:
        manifest, files = _manifest(path)
        return fingerprint(path, _files(KINDS[manifest.kind])) == files
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def names(folder: Path) -> list[str]:
    """The snapshots in an index's folder, newest first; unfinished ones are not among them."""
    try:
        found = [path.name for path in (folder / SNAPSHOTS).iterdir() if path.name[0] != "."]
    except FileNotFoundError:
        return []
    numbers = {name: name.split("-")[0] for name in found}
    return sorted(
        (name for name in found if numbers[name].isdigit()),
        key=lambda name: int(numbers[name]),
        reverse=True,
    )


def newest_snapshot_sequence(folder: Path) -> int:
    """The last change that any snapshot was made of; 0 without one.

    A store that ends before it has lost what it had acknowledged: its log was cut, or an older
    `store.sqlite` put back. Ask for this before asking the store, which goes on meanwhile.
    """
    return max((int(name.split("-")[0]) for name in names(folder)), default=0)


def _manifest(path: Path) -> tuple[SnapshotManifest, dict[str, tuple[str, int]]]:
    """A manifest, and the checksums in it."""
    said = json.loads((path / MANIFEST).read_text())
    if said.pop("check") != _check(said):
        raise ValueError("the manifest's checksum is wrong")
    files = {name: tuple(entry) for name, entry in said.pop("files").items()}
    manifest = SnapshotManifest(**said)
    if manifest.format != FORMAT or manifest.kind not in KINDS:
        raise ValueError(f"format {manifest.format!r}, kind {manifest.kind!r}")
    return manifest, files


def _check(said: dict[str, Any]) -> str:
    """Checksum of a manifest's other entries."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(
    path: Path, manifest: SnapshotManifest
) -> tuple[Any, NDArray[np.int64], NDArray[np.float32]]:
    """FAISS index, rows and vectors of a folder.

    Raises:
        OSError: A file cannot be read.
        RuntimeError: FAISS cannot read its file.
        ValueError: A file is cut short, or they do not fit together.
    """
    index = faiss_module().read_index(str(path / INDEX))
    rows = np.load(path / ROWS)
    whole = KINDS[manifest.kind].exact
    vectors = flat_vectors(index) if whole else np.load(path / VECTORS, mmap_mode="r")
    if not index.ntotal == len(rows) == len(vectors) == manifest.count:
        raise ValueError("index, rows and manifest do not fit together")
    if not index.d == vectors.shape[1] == manifest.dimension:
        raise ValueError("index, vectors and manifest differ in their dimension")
    return index, rows, vectors


def _files(kind: Kind) -> list[str]:
    return [INDEX, ROWS] if kind.exact else [INDEX, ROWS, VECTORS]


def sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
