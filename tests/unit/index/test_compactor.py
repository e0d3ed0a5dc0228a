"""Background compaction: when it is due, and that it runs."""

import numpy as np
import psutil
import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.maintenance.compactor import Compactor, compaction_reason
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import SNAPSHOTS
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from tests.paths import CHECKPOINT
from tests.waiting import until

PROFILE = Profile.load(CHECKPOINT)


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 8) as created:
        yield created


def compactions(folder):
    """Child processes that work on the index."""
    children = psutil.Process().children()
    return [child for child in children if str(folder) in child.cmdline()]


def test_compaction_is_due_after_enough_writes_or_removals_or_damage(store):
    assert compaction_reason(store, 10) == ""
    store.write([Upsert(str(n), vector) for n, vector in enumerate(unit(9))])
    assert compaction_reason(store, 10) == ""
    store.write([Upsert("9", unit(10)[9])])
    assert compaction_reason(store, 10) == "10 items written and 0 removed since the last one"
    compact(store.folder)
    assert compaction_reason(store, 10) == ""
    store.write([Delete(str(n)) for n in range(10)])
    assert compaction_reason(store, 10) == "0 items written and 10 removed since the last one"
    (store.folder / SNAPSHOTS / store.snapshot / "manifest.json").write_text("{")
    assert compaction_reason(store, 100) == f"snapshot {store.snapshot} is damaged or missing"


def test_compaction_is_due_when_a_fifth_of_the_rows_was_removed(store):
    store.write([Upsert(str(n), vector) for n, vector in enumerate(unit(5000))])
    compact(store.folder)
    store.write([Delete(str(n)) for n in range(999)])
    assert compaction_reason(store, 10**6) == ""
    store.write([Delete("999")])
    assert compaction_reason(store, 10**6) == "1000 of 5000 items were removed"


def test_compactor_compacts_again_and_again(store):
    compactor = Compactor(store.folder, 20, interval_s=0.05)
    compactor.start()
    try:
        for turn in range(2):
            vectors = unit(25, seed=turn)
            store.write([Upsert(f"{turn}/{n}", vector) for n, vector in enumerate(vectors)])
            until(lambda turn=turn: store.snapshot.startswith(f"{25 * (turn + 1)}-"))
    finally:
        compactor.stop()
    assert not compactions(store.folder)


def test_damaged_snapshot_is_built_again(store, caplog):
    store.write([Upsert(str(n), vector) for n, vector in enumerate(unit(50))])
    damaged = compact(store.folder).name
    path = store.folder / SNAPSHOTS / damaged / "index.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    caplog.set_level("INFO")
    compactor = Compactor(store.folder, 10**6, interval_s=0.05)
    compactor.start()
    try:
        until(lambda: store.snapshot != damaged)
    finally:
        compactor.stop()
    assert f"compaction begins: snapshot {damaged} is damaged" in caplog.text
    assert caplog.text.count("compaction begins") == 1
    with LiveIndex.open(store.folder) as live:
        assert live.manifest["snapshot"] == store.snapshot
        assert len(live) == 50


def test_failed_compaction_is_logged_and_writes_go_on(store, caplog):
    store.write([Upsert(str(n), vector) for n, vector in enumerate(unit(5))])
    store._connection.execute("UPDATE vectors SET vector = zeroblob(32) WHERE row = 3")
    compactor = Compactor(store.folder, 5, interval_s=0.05)
    compactor.start()
    until(lambda: "row 3 is damaged" in caplog.text)
    compactor.stop()
    assert "compaction failed with status 1" in caplog.text
    assert store.write([Delete("2")])[0] == 6
