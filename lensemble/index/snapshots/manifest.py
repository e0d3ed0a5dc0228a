"""The files of a snapshot, and its manifest, which describes the snapshot and has their checksums.

    index.faiss      the FAISS index
    vectors.npy      (N, D) float32, the full-precision vectors; only if the FAISS index does not
                     contain them. Processes map the file into memory, so they share one copy, and
                     only the parts that are used are read.
    rows.npy         (N,) int64, ascending: row number in the store, by position
    manifest.json    sequence number, kind, profile, FAISS version, recall, checksums of the others

FAISS writes no checksums, and loads a file with flipped bits without an error in most cases. So the
checksums in the manifest are compared at every load.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensemble.checkpoint import hash_files
from lensemble.index.snapshots.kinds import KINDS, Kind

FORMAT = 4
# Name of the folder of all snapshots, and of the files of one snapshot.
SNAPSHOTS = "snapshots"
MANIFEST, INDEX, VECTORS, ROWS = "manifest.json", "index.faiss", "vectors.npy", "rows.npy"

Checksums = dict[str, tuple[str, int]]  # file name -> (SHA-256, size in bytes)

# What reading a missing or damaged manifest can raise.
MANIFEST_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """Description of a snapshot.

    Attributes:
        sequence: sequence number of the last change in the snapshot.
        last_row: highest row number that the store had used at that sequence number.
        kind: name of the `Kind`.
        parameters: all parameters of the kind.
        profile_name: name of the profile of the vectors.
        profile_hash: hash of that profile.
        dimension: length D of the vectors.
        count: number N of vectors.
        faiss: FAISS version that wrote the index.
        recall_at_10: recall against exact search on a sample of the vectors; 1 for exact search.
        format: version of the snapshot format.
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


def snapshot_names(folder: Path) -> list[str]:
    """Names of the complete snapshots of an index, newest first."""
    try:
        # A snapshot that is still being written has a name that begins with a dot.
        names = [path.name for path in (folder / SNAPSHOTS).iterdir() if path.name[0] != "."]
    except FileNotFoundError:
        return []
    complete = [name for name in names if name.split("-")[0].isdigit()]
    return sorted(complete, key=_sequence_in_name, reverse=True)


def newest_snapshot_sequence(folder: Path) -> int:
    """Highest sequence number of all snapshots of an index; 0 if there is none.

    A store with a lower sequence number has lost acknowledged changes: its WAL file was cut, or an
    older `store.sqlite` was put in its place. Call this before reading the store's sequence number,
    because other processes may write to the store between the two calls.
    """
    return max(map(_sequence_in_name, snapshot_names(folder)), default=0)


def read_manifest(folder: Path, name: str) -> SnapshotManifest | None:
    """The manifest of a snapshot; None if it cannot be read. Other files are not checked.

    Args:
        folder: folder of the index.
        name: name of the snapshot.
    """
    try:
        return parse_manifest(folder / SNAPSHOTS / name)[0]
    except MANIFEST_ERRORS:
        return None


def is_intact(folder: Path, name: str) -> bool:
    """Whether all checksums of a snapshot are right; reads all its files.

    Args:
        folder: folder of the index.
        name: name of the snapshot.
    """
    try:
        check_files(folder / SNAPSHOTS / name)
    except MANIFEST_ERRORS:
        return False
    return True


def check_files(path: Path) -> SnapshotManifest:
    """Reads all files in a snapshot's folder, checks their checksums, and returns the manifest.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError (`MANIFEST_ERRORS`): A file cannot
            be read, is damaged, or has another format.
    """
    manifest, checksums = parse_manifest(path)
    if hash_files(path, data_files(KINDS[manifest.kind])) != checksums:
        raise ValueError("a checksum is wrong")
    return manifest


def parse_manifest(path: Path) -> tuple[SnapshotManifest, Checksums]:
    """The manifest in a snapshot's folder, and the checksums of its other files.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError, AttributeError: The file is damaged, or has another format.
    """
    entries = json.loads((path / MANIFEST).read_text())
    if entries.pop("check") != manifest_checksum(entries):
        raise ValueError("the manifest's checksum is wrong")
    checksums = {name: tuple(entry) for name, entry in entries.pop("files").items()}
    manifest = SnapshotManifest(**entries)
    if manifest.format != FORMAT or manifest.kind not in KINDS:
        raise ValueError(f"format {manifest.format!r}, kind {manifest.kind!r}")
    return manifest, checksums


def manifest_checksum(entries: dict[str, Any]) -> str:
    """SHA-256 of all entries of a manifest except `check`."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def data_files(kind: Kind) -> list[str]:
    """Names of the files of a snapshot, without its manifest."""
    return [INDEX, ROWS] if kind.exact else [INDEX, ROWS, VECTORS]


def _sequence_in_name(name: str) -> int:
    """The sequence number with which the name of a snapshot begins."""
    return int(name.split("-")[0])
