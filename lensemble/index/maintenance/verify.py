"""Verifies an index: reads the whole store and the current snapshot, and checks all checksums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lensemble.index.snapshots.manifest import newest_snapshot_sequence
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.storage.store import Store


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of `verify`.

    Attributes:
        rows: number of rows in the store, tombstones included.
        items: number of live items.
        snapshot: name of the current snapshot; empty if there is none.
        snapshot_damage: reason why the current snapshot cannot be used; empty if it can be used, or
            if there is none.
        sequence: sequence number of the store's last change.
        newest_snapshot_sequence: highest sequence number of all snapshots. If it is higher than
            `sequence`, the store has lost changes.
    """

    rows: int
    items: int
    snapshot: str
    snapshot_damage: str
    sequence: int
    newest_snapshot_sequence: int


def verify(folder: Path) -> VerifyReport:
    """Reads the whole store of an index and its current snapshot, and checks them.

    Raises:
        InvalidInputError: The folder has no index.
        StorageError: The store is damaged. A damaged snapshot raises no error, because it can be
            made again; the report has it as `snapshot_damage`.
    """
    newest = newest_snapshot_sequence(folder)
    with Store.open(folder) as store:
        rows, items, current = store.verify(), len(store), store.snapshot
        sequence = store.sequence
    damage = ""
    if current:
        try:
            Snapshot.load(folder, current)
        except DamagedSnapshotError as error:
            damage = error.message
    return VerifyReport(rows, items, current, damage, sequence, newest)
