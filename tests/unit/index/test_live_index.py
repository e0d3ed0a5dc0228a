"""The live index: every search finds every acknowledged write, whatever happens to snapshots."""

import fcntl
import json
import random
from pathlib import Path

import numpy as np
import pytest

from lensemble.index import Query
from lensemble.index.maintenance.compact import compact
from lensemble.index.search.delta import Delta
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.exact_search import merge_top_k, nearest_rows
from lensemble.index.snapshots.manifest import SNAPSHOTS, snapshot_names
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.snapshots.tune import build_for_plan
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import OverloadedError, StorageError
from tests.paths import CHECKPOINT
from tests.waiting import DEADLINE_S

PROFILE = Profile.load(CHECKPOINT)
D = 8


def unit(rng, count):
    vectors = rng.standard_normal((count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, D) as created:
        yield created


@pytest.fixture
def index(store):
    with LiveIndex.open(store.folder) as opened:
        yield opened


def ids(index, query, k=3):
    return [hit.id for hit in index.search(query[None], k)[0]]


def wait_for_current_snapshot(index):
    """Waits until the index uses the current snapshot, which it loads in a thread."""
    index.refresh()
    while index._loading is not None:
        index._loading.result(DEADLINE_S)
        index.refresh()


def test_delta_moves_the_last_row_to_the_position_of_a_removed_one(rng):
    vectors = unit(rng, 5)
    delta = Delta(D)
    delta.add(np.arange(10, 13), vectors[:3])
    delta.remove(10)
    delta.add(np.array([20, 21]), vectors[3:])
    delta.remove(21)
    assert sorted(delta.rows.tolist()) == [11, 12, 20]
    assert (10 in delta, 20 in delta) == (False, True)
    for row, vector in ((11, vectors[1]), (12, vectors[2]), (20, vectors[3])):
        scores, rows = delta.search(vector[None], 1)
        assert rows.tolist() == [[row]]
        assert scores[0, 0] == pytest.approx(1, abs=1e-6)
    allowed = delta.rows != 20
    assert 20 not in delta.search(vectors[3][None], 5, allowed)[1]
    assert delta.search(vectors[:2], 9)[1].shape == (2, 3)


def test_exact_search_without_vectors_returns_no_columns(rng):
    empty = nearest_rows(unit(rng, 2), np.empty(0, np.int64), np.empty((0, D), np.float32), 5)
    assert empty[1].shape == (2, 0)
    _, rows = merge_top_k([empty, nearest_rows(unit(rng, 2), np.array([7]), unit(rng, 1), 5)], 3)
    assert rows.tolist() == [[7], [7]]


def test_writes_are_found_by_the_next_search(store, index, rng):
    a, b = unit(rng, 2)
    assert ids(index, a) == []
    store.write([Upsert("a", a), Upsert("b", b, '{"n": 1}')])
    (hits,) = index.search(b[None], 1)
    assert [(hit.id, hit.document) for hit in hits] == [("b", '{"n": 1}')]
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    store.write([Delete("b"), Upsert("c", b)])
    assert ids(index, b) == ["c", "a"]
    assert index.manifest["count"] == 2


def test_snapshot_does_not_change_results(store, index, rng):
    vectors = unit(rng, 300)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    before = index.search(vectors[:20], 10)
    compact(store.folder)
    wait_for_current_snapshot(index)
    assert (index.manifest["delta"], index.manifest["dead"]) == (0, 0)
    assert index.manifest["snapshot"] == snapshot_names(store.folder)[0] == store.snapshot
    for hits, expected in zip(index.search(vectors[:20], 10), before, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        scores = [hit.score for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("removed", [1, 40, 290, 300])
def test_removed_rows_of_a_snapshot_are_not_returned(store, index, rng, removed):
    """If more of the nearest rows are removed than can be dropped, FAISS needs a selector."""
    vectors = unit(rng, 300)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    compact(store.folder)
    wait_for_current_snapshot(index)
    query = unit(rng, 1)[0]
    order = np.argsort(-(vectors @ query))
    store.write([Delete(str(n)) for n in order[:removed]])
    assert ids(index, query, 5) == [str(n) for n in order[removed : removed + 5]]
    assert index.manifest["count"] == 300 - removed


def test_writes_during_a_compaction_are_kept(store, index, rng):
    vectors = unit(rng, 10)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    index.refresh()
    contents = store.read_contents()
    tuned = build_for_plan(IndexPlan(), contents.vectors)
    # Written after the store was read, and before the snapshot becomes the current one.
    store.write([Delete("0"), Upsert("1", -vectors[1]), Upsert("new", vectors[0])])
    snapshot = Snapshot.from_contents(
        contents, tuned, profile_name=store.profile_name, profile_hash=store.profile_hash
    )
    snapshot.save(store.folder)
    store.set_snapshot(snapshot.name)
    wait_for_current_snapshot(index)
    assert index.manifest["snapshot"] == snapshot.name
    assert ids(index, vectors[0], 1) == ["new"]
    assert ids(index, -vectors[1], 1) == ["1"]
    assert len(index) == 10
    with LiveIndex.open(store.folder) as fresh:
        assert ids(fresh, vectors[0], 10) == ids(index, vectors[0], 10)


def test_snapshot_older_than_the_searcher_does_not_bring_back_removed_rows(store, rng):
    """The searcher started without a snapshot, after rows of this snapshot had been removed."""
    vectors = unit(rng, 10)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    snapshot = compact(store.folder)
    store.set_snapshot("")
    store.set_snapshot("")  # twice, so that it is not the previous one either
    store.write([Delete("3")])
    hidden = (store.folder / SNAPSHOTS).rename(store.folder / "hidden")
    with LiveIndex.open(store.folder) as late:
        hidden.rename(store.folder / SNAPSHOTS)
        store.set_snapshot(snapshot.name)
        wait_for_current_snapshot(late)
        assert late.manifest["snapshot"] == snapshot.name
        assert "3" not in ids(late, vectors[3], 10)
        assert len(late) == 9


def damage_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_length(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("name", ["index.faiss", "rows.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [damage_byte, damage_length, Path.unlink])
def test_damaged_snapshot_is_not_used(store, rng, name, damage, caplog):
    vectors = unit(rng, 50)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    snapshot = compact(store.folder)
    path = store.folder / SNAPSHOTS / snapshot.name / name
    if name == "manifest.json" and damage is damage_byte:
        path.write_text(path.read_text().replace('"count": 50', '"count": 51'))
    else:
        damage(path)
    with pytest.raises(DamagedSnapshotError, match="made again from the store"):
        Snapshot.load(store.folder, snapshot.name)
    with LiveIndex.open(store.folder) as opened:
        assert opened.manifest["snapshot"] == ""
        assert ids(opened, vectors[7], 1) == ["7"]
    assert snapshot.name in caplog.text


def test_previous_snapshot_is_used_if_the_current_one_is_damaged(store, rng):
    vectors = unit(rng, 50)
    store.write([Upsert(str(n), vector) for n, vector in enumerate(vectors)])
    first = compact(store.folder)
    store.write([Delete("3"), Upsert("50", vectors[3])])
    second = compact(store.folder)
    damage_byte(store.folder / SNAPSHOTS / second.name / "index.faiss")
    with LiveIndex.open(store.folder) as opened:
        assert opened.manifest["snapshot"] == first.name
        assert ids(opened, vectors[3], 1) == ["50"]
        assert len(opened) == 50
        third = compact(store.folder)
        wait_for_current_snapshot(opened)
        assert opened.manifest["snapshot"] == third.name
    assert len(snapshot_names(store.folder)) == 2


def test_compaction_deletes_old_snapshots_and_tombstones(store, index, rng):
    vectors = unit(rng, 4)
    for turn in range(4):
        store.write([Upsert(str(turn), vectors[turn]), Delete(str(turn - 1))])
        (store.folder / SNAPSHOTS / ".1-exact-x.part").mkdir(parents=True, exist_ok=True)
        compact(store.folder)
    remaining = [path.name for path in (store.folder / SNAPSHOTS).iterdir()]
    assert sorted(remaining) == sorted(snapshot_names(store.folder))
    assert len(remaining) == 2
    # Rows 1 and 2 were removed before the older one of the two remaining snapshots was made.
    assert store.ids_and_documents([1, 2, 3, 4]).keys() == {3, 4}
    assert ids(index, vectors[3]) == ["3"]  # the searcher had not seen any of this


def test_second_compaction_at_the_same_time_is_refused(store, rng):
    store.write([Upsert("a", unit(rng, 1)[0])])
    with (store.folder / "compact.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OverloadedError, match="being compacted by another process"):
            compact(store.folder)
    compact(store.folder)


def test_failed_compaction_keeps_the_current_snapshot(store, index, rng, monkeypatch):
    store.write([Upsert("a", unit(rng, 1)[0])])
    first = compact(store.folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match=r"No space left.*make room.*the store is undamaged"):
        compact(store.folder)
    assert snapshot_names(store.folder) == [first.name]
    assert store.snapshot == first.name


ODD = '{"turn": {"$in": [' + ", ".join(str(n) for n in range(1, 150, 2)) + "]}}"


def brute_force(expected, query, turn):
    """Ids of the nearest items, from the dictionary alone."""
    # The third filter asks for what was written in the last ten turns.
    matches = {
        "": lambda written: True,
        ODD: lambda written: written % 2 == 1,
    }.get(query.filter, lambda written: written >= turn - 9)
    scores = {
        id_: float(vector @ query.vector)
        for id_, (vector, written) in expected.items()
        if matches(written) and id_ not in query.exclude
    }
    best = sorted(scores, key=lambda id_: -scores[id_])
    return [id_ for id_ in best if scores[id_] >= query.min_score][: query.top_k]


def test_random_operations_equal_brute_force(store, rng):
    """Random writes, deletes, compactions and searches by two searchers, against brute force.

    Queries have filters, excluded ids, a lowest score, or the id of a stored item.
    """
    random_ = random.Random(0)
    expected = {}
    searchers = [LiveIndex.open(store.folder) for _ in range(2)]
    for turn in range(150):
        changes = []
        for _ in range(random_.randint(0, 8)):
            id_ = str(random_.randrange(60))
            if random_.random() < 0.3:
                changes.append(Delete(id_))
                expected.pop(id_, None)
            else:
                (vector,) = unit(rng, 1)
                changes.append(Upsert(id_, vector, json.dumps({"turn": turn})))
                expected[id_] = (vector, turn)
        store.write(changes)
        if random_.random() < 0.15:
            compact(store.folder)
        if random_.random() < 0.1:
            searchers[1].close()
            searchers[1] = LiveIndex.open(store.folder)
        searcher = random_.choice(searchers)
        queries = [
            Query(
                vector,
                random_.randint(1, 20),
                random_.choice(["", "", f'{{"turn": {{"$gte": {turn - 9}}}}}', ODD]),
                tuple(random_.sample([str(n) for n in range(60)], random_.choice([0, 0, 3, 40]))),
                random_.choice([-np.inf, -np.inf, 0.0, 0.4]),
            )
            for vector in unit(rng, 5)
        ]
        for query, hits in zip(queries, searcher.answer(queries), strict=True):
            assert [hit.id for hit in hits] == brute_force(expected, query, turn)
            for hit in hits:
                assert json.loads(hit.document)["turn"] == expected[hit.id][1]
        if expected:
            id_, (vector, _) = random_.choice(list(expected.items()))
            (hits,) = searcher.answer([Query(None, 4, ODD, like=id_)])
            equal_query = Query(vector, 4, ODD, (id_,))
            assert [hit.id for hit in hits] == brute_force(expected, equal_query, turn)
        assert len(searcher) == len(expected)
    for searcher in searchers:
        searcher.close()
