"""What an index is and what it takes: for `stats`, and for whoever looks after it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from lensemble.index.snapshots.snapshot import SNAPSHOTS, names, read_manifest
from lensemble.index.storage.reader import STORE_FILE, StoreReader


def stats(reader: StoreReader) -> dict[str, Any]:
    """Counts, sizes in bytes, and what the current snapshot says of itself.

    Raises:
        StorageError: The store cannot be read.
    """
    with reader.reading():
        current = reader.snapshot
        made = read_manifest(reader.folder, current) if current else None
        written, removed = reader.pending(made.sequence if made else 0)
        count, sequence = len(reader), reader.sequence
    return {
        "count": count,
        "dimension": reader.dimension,
        "profile_name": reader.profile_name,
        "profile_hash": reader.profile_hash,
        "sequence": sequence,
        "plan": asdict(reader.plan),
        "fields": reader.fields,
        "snapshot": {"name": current, **asdict(made)} if made else None,
        "written_since": written,
        "removed_since": removed,
        "store_bytes": _size(reader, STORE_FILE) + _size(reader, f"{STORE_FILE}-wal"),
        "snapshot_bytes": {
            name: sum(path.stat().st_size for path in (reader.folder / SNAPSHOTS / name).iterdir())
            for name in names(reader.folder)
        },
    }


def stats_json(reader: StoreReader) -> str:
    """`stats` as JSON text."""
    return json.dumps(stats(reader))


def _size(reader: StoreReader, name: str) -> int:
    path = reader.folder / name
    return path.stat().st_size if path.is_file() else 0
