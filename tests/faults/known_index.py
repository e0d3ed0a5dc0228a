"""An index with known contents, and ways to damage its files."""

import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import snapshot_names
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from tests.faults.worker import PLANS, build, vector

COUNT = 2000
KINDS = {plan.kind: plan for plan in PLANS[:2]}
WAL = f"{STORE_FILE}-wal"
QUERIES = np.stack([vector(9, n) for n in range(8)])
# Every error contains one of these parts, which say what to do.
REMEDIES = (
    "put a backup in its place",
    "make room on the disk",
    "see whether",
)


@dataclass
class KnownIndex:
    """An index with known contents.

    Attributes:
        folder: folder of the index; no process has it open, and it is never changed.
        items: vector and document by id.
        removed: ids of items that were removed.
    """

    folder: Path
    items: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def copy(self, to: Path) -> Path:
        """A copy, which may be damaged."""
        shutil.rmtree(to, ignore_errors=True)
        return Path(shutil.copytree(self.folder, to))

    def write(self, store: Store, changes: list[Upsert | Delete]) -> None:
        store.write(changes)
        for change in changes:
            if isinstance(change, Upsert):
                self.items[change.id] = (change.vector, change.document)
                self.removed.discard(change.id)
            elif self.items.pop(change.id, None):
                self.removed.add(change.id)

    def check(self, folder: Path) -> None:
        """Checks that a copy has exactly the known contents."""
        with LiveIndex.open(folder) as live:
            scores_found = self.check_hits(live)
            assert len(live) == len(self.items)
            matrix = np.stack([vector for vector, _ in self.items.values()])
            for query, scores in zip(QUERIES, scores_found, strict=True):
                best = np.sort(matrix @ query)[::-1][:10]
                assert np.allclose(scores, best, atol=1e-4)
        with Store.open(folder) as store:
            assert len(store) == len(self.items)
            assert self.check_items(store) == len(self.items)

    def check_hits(self, live: LiveIndex) -> list[list[float]]:
        """Checks that every hit is a known item; returns the scores."""
        results = live.search(QUERIES, 10)
        for query, hits in zip(QUERIES, results, strict=True):
            assert len({hit.id for hit in hits}) == len(hits)
            for hit in hits:
                known, document = self.items[hit.id]
                assert hit.document == document
                assert hit.score == pytest.approx(float(known @ query), abs=1e-4)
        return [[hit.score for hit in hits] for hits in results]

    def check_items(self, store: Store) -> int:
        """Checks that items read by id are right; returns how many were found."""
        assert store.get(list(self.removed)) == [None] * len(self.removed)
        items = [item for item in store.get(list(self.items)) if item is not None]
        for item in items:
            known, document = self.items[item.id]
            assert item.document == document
            assert np.array_equal(item.vector, known)
        return len(items)


def make_known_index(kind: str, folder: Path) -> KnownIndex:
    """Creates an index with two snapshots, and with changes after each of them."""
    known = KnownIndex(folder / "index")
    build(known.folder, 70, COUNT, KINDS[kind])
    for n in range(COUNT):
        known.items[f"{n}"] = (vector(70, n), json.dumps({"seed": 70, "n": n}))
    with Store.open(known.folder) as store:
        for turn in (1, 2):
            changes: list[Upsert | Delete] = [
                Upsert(f"{n * 7 * turn}", vector(70, n, turn), json.dumps({"n": n, "turn": turn}))
                for n in range(100)
            ]
            changes += [Delete(f"{n * 9 * turn + 1}") for n in range(100)]
            changes += [Upsert(f"new/{turn}/{n}", vector(71, n, turn)) for n in range(60)]
            known.write(store, changes)
            if turn == 1:
                compact(known.folder)
    assert len(snapshot_names(known.folder)) == 2
    assert not (known.folder / WAL).exists()
    known.check(known.folder)
    return known


def flip_bit(path: Path, draw: random.Random) -> str:
    """Flips one bit of a file; returns which one."""
    data = bytearray(path.read_bytes())
    position, bit = draw.randrange(len(data)), draw.randrange(8)
    data[position] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {position} of {len(data)}"


def truncate(path: Path, draw: random.Random) -> str:
    """Truncates a file; returns how much is left."""
    data = path.read_bytes()
    left = draw.randrange(len(data))
    path.write_bytes(data[:left])
    return f"{left} of {len(data)} bytes left"
