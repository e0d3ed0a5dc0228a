"""Statistics of an index: counts, sizes, profile and index plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from lensemble.index.snapshots.manifest import SNAPSHOTS, read_manifest, snapshot_names
from lensemble.index.storage.reader import StoreReader
from lensemble.index.storage.schema import STORE_FILE


def stats(reader: StoreReader) -> dict[str, Any]:
    """Counts, sizes in bytes, the index plan, and the manifest of the current snapshot.

    Raises:
        StorageError: The store cannot be read.
    """
    with reader.reading():
        current = reader.snapshot
        manifest = read_manifest(reader.folder, current) if current else None
        written, removed = reader.count_changes_since(manifest.sequence if manifest else 0)
        count, sequence = len(reader), reader.sequence
    folder = reader.folder / SNAPSHOTS
    return {
        "count": count,
        "dimension": reader.dimension,
        "profile_name": reader.profile_name,
        "profile_hash": reader.profile_hash,
        "sequence": sequence,
        "plan": asdict(reader.plan),
        "fields": reader.fields,
        "snapshot": {"name": current, **asdict(manifest)} if manifest else None,
        "written_since": written,
        "removed_since": removed,
        "store_bytes": _file_bytes(reader, STORE_FILE) + _file_bytes(reader, f"{STORE_FILE}-wal"),
        "snapshot_bytes": {
            name: sum(path.stat().st_size for path in (folder / name).iterdir())
            for name in snapshot_names(reader.folder)
        },
    }


def stats_json(reader: StoreReader) -> str:
    """`stats` as JSON text."""
    return json.dumps(stats(reader))


def _file_bytes(reader: StoreReader, name: str) -> int:
    path = reader.folder / name
    return path.stat().st_size if path.is_file() else 0
