"""The store: what was acknowledged is there, in order, for every reader, and damage is named."""

import json
import multiprocessing
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.reader import TombstonesPurgedError
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_client import InvalidInputError
from lensemble_contract.errors import StorageError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXES = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 4) as made:
        yield made


def upsert(id_, axis=0, **document):
    return Upsert(id_, AXES[axis], json.dumps(document))


def test_what_was_written_is_read_by_everybody(store):
    with Store.open(store.folder) as other:
        assert len(other) == 0
        before = other.data_version
        assert store.write([upsert("a", 0, colour="red"), upsert("b", 1)]) == [1, 2]
        assert other.data_version != before
        assert (len(other), other.sequence) == (2, 2)
        a, nothing = other.get(["a", "c"])
        assert nothing is None
        assert (a.id, json.loads(a.document)) == ("a", {"colour": "red"})
        assert np.array_equal(a.vector, AXES[0])
        assert other.ids_and_documents([a.row, 99]) == {a.row: ("a", '{"colour": "red"}')}
        assert (other.profile_hash, other.dimension) == (PROFILE.hash, 4)


def test_upsert_is_a_new_row_and_a_tombstone(store):
    store.write([upsert("a", 0), upsert("b", 1)])
    old = store.get(["a"])[0].row
    known = store.sequence
    assert store.write([upsert("a", 2), Delete("b"), Delete("never there")]) == [3, 4, 0]
    news = store.changes_since(known)
    (new,) = news.rows
    assert new > old
    assert np.array_equal(news.vectors, AXES[2:3])
    assert news.removed.tolist() == [old, 2]
    assert news.sequence == 4
    assert len(store) == 1


def test_the_same_again_changes_nothing(store):
    assert store.write([upsert("a", 0, n=1)]) == [1]
    assert store.write([upsert("a", 0, n=1)]) == [1]
    assert store.write([upsert("a", 0, n=2)]) == [2]
    assert store.write([upsert("a", 1, n=2)]) == [3]
    assert store.sequence == 3


def test_row_numbers_are_never_used_twice(store):
    store.write([upsert("a")])
    store.write([Delete("a")])
    assert store.purge(store.sequence) == 1
    store.write([upsert("b")])
    assert store.get(["b"])[0].row == 2


def test_later_changes_of_one_call_win(store):
    store.write([upsert("a", 0), upsert("a", 1), Delete("a"), upsert("a", 2)])
    assert np.array_equal(store.get(["a"])[0].vector, AXES[2])
    assert store.changes_since(0).rows.tolist() == [3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (upsert(""), "expected 1 to 512"),
        (upsert("x" * 513), "has 513 bytes"),
        (Delete("\udcff"), "not valid Unicode"),
        (Upsert("a", AXES[0, :3]), "has 3 dimensions, the index 4"),
        (Upsert("a", AXES[0] * np.nan), "not finite"),
        (Upsert("a", AXES[0] * 2), "has length 2; expected 1"),
        (Upsert("a", AXES[0] * 0), "has length 0; expected 1"),
        (Upsert("a", AXES[0], "{"), "not JSON: .*property name"),
        (Upsert("a", AXES[0], '{"n": NaN}'), "NaN is not a JSON value"),
        (Upsert("a", AXES[0], "[1]"), "a JSON list; expected an object"),
        (Upsert("a", AXES[0], '{"d": "\udcff"}'), "not JSON: .*surrogates"),
        (Upsert("a", AXES[0], '{"a":' * 5000 + "1" + "}" * 5000), "not JSON: .*recursion"),
        (Upsert("a", AXES[0], json.dumps({"d": "x" * 70_000})), "expected at most 65536"),
    ],
)
def test_bad_changes_are_refused_alone(store, change, said):
    first, refused, last = store.write([upsert("one"), change, upsert("two")])
    assert (first, last) == (1, 2)
    assert isinstance(refused, InvalidInputError)
    with pytest.raises(InvalidInputError, match=said):
        raise refused
    assert len(store) == 2


def test_reader_behind_a_purge_is_told(store):
    store.write([upsert("a"), upsert("b")])
    store.write([Delete("a")])
    store.purge(3)
    with pytest.raises(TombstonesPurgedError):
        store.changes_since(2)
    assert store.changes_since(3).rows.tolist() == []
    assert len(store) == 1


def test_many_rows_come_in_order(store):
    store.write([upsert(str(n), n % 4) for n in range(5000)])
    news = store.changes_since(0)
    assert news.rows.tolist() == list(range(1, 5001))
    assert np.array_equal(news.vectors, AXES[np.arange(5000) % 4])
    # More than SQLite takes in one question.
    assert len(store.ids_and_documents(list(range(70_000)))) == 5000


def test_news_are_read_without_a_look_at_all_that_is_older(store):
    """Measured in work, not in time: SQLite counts the steps of its virtual machine."""
    store.write([upsert(str(n), n % 4) for n in range(5000)])

    def steps(work):
        counted = [0]

        def count():
            counted[0] += 1

        store._connection.set_progress_handler(count, 100)
        work()
        store._connection.set_progress_handler(None, 0)
        return counted[0]

    known = store.sequence
    assert steps(lambda: store.changes_since(0)) > 200
    store.write([upsert("new"), upsert("7"), Delete("8")])
    assert steps(lambda: store.changes_since(known)) < 5
    assert steps(lambda: store.count_changes_since(known)) < 5
    assert store.changes_since(known).rows.tolist() == [5001, 5002]


def test_full_disk_keeps_what_was_before(store):
    store.write([upsert("a")])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full; make room on the disk"):
        store.write([upsert(str(n), n=n, text="x" * 1000) for n in range(50)])
    assert (len(store), store.sequence) == (1, 1)
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.write([upsert("b")]) == [2]


def test_locked_file_is_named(store, monkeypatch):
    with Store.open(store.folder) as other:
        other._connection.execute("PRAGMA busy_timeout = 50")
        store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"store\.sqlite.*locked.*try again"):
            other.write([upsert("a")])
        store._connection.execute("ROLLBACK")
        assert other.write([upsert("a")]) == [1]


def test_flipped_bytes_are_found(store):
    store.write([upsert("a", 0, colour="red"), upsert("b", 1, colour="red")])
    store._connection.execute("UPDATE items SET document = '{\"colour\": \"rid\"}' WHERE id = 'a'")
    with pytest.raises(StorageError, match=r"store\.sqlite.*row 1 is damaged.*index restore"):
        store.ids_and_documents([1])
    with pytest.raises(StorageError, match="row 1 is damaged"):
        store.get(["a"])
    flipped = bytearray(AXES[1].tobytes())
    flipped[5] ^= 1
    store._connection.execute("UPDATE vectors SET vector = ? WHERE row = 2", (bytes(flipped),))
    with pytest.raises(StorageError, match="row 2 is damaged"):
        store.changes_since(0)
    assert zlib.crc32(bytes(flipped)) != zlib.crc32(AXES[1].tobytes())


@pytest.mark.parametrize(
    "damage", ["vectors SET vector = zeroblob(16)", "items SET item_check = 0"]
)
def test_writing_a_damaged_item_again_mends_it(store, damage):
    item = Upsert("a", AXES[0], "{}", "d")
    assert store.write([item]) == [1]
    assert store.write([item]) == [1]
    store._connection.execute(f"UPDATE {damage}")
    with pytest.raises(StorageError, match="is damaged"):
        store.get(["a"])
    assert store.write([item]) == [2]
    assert np.array_equal(store.get(["a"])[0].vector, AXES[0])


def test_damaged_file_is_named(store):
    store.write([upsert(str(n), n % 4) for n in range(200)])
    store.close()
    path = store.folder / STORE_FILE
    whole = path.read_bytes()
    path.write_bytes(b"SQLate" + whole[6:])
    with pytest.raises(StorageError, match="not a database; it is damaged; put a backup"):
        Store.open(store.folder)
    path.write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(StorageError, match="malformed; it is damaged; put a backup"),
        Store.open(store.folder) as cut,
    ):
        cut.changes_since(0)


def test_folder_without_or_with_another_store_is_refused(tmp_path, store):
    with pytest.raises(InvalidInputError, match=r"no store\.sqlite in .*lensemble index build"):
        Store.open(tmp_path)
    with pytest.raises(InvalidInputError, match="is there already"):
        Store.create(store.folder, PROFILE, 4)
    store._connection.execute("UPDATE state SET format = 99")
    with pytest.raises(InvalidInputError, match="has format 99; expected 4"):
        Store.open(store.folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"):
        Store.create(tmp_path / "file", PROFILE, 4)


def add(folder, name, count):
    with Store.open(folder) as store:
        for n in range(count):
            assert store.write([upsert("shared", n % 4), upsert(f"{name}-{n}", n % 4)])


def test_writers_in_processes_take_turns(store):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add, args=(store.folder, name, 40)) for name in "abc"]
    for writer in writers:
        writer.start()
    follower, removed = set(), set()
    known = 0
    while any(writer.is_alive() for writer in writers):
        news = store.changes_since(known)
        follower |= set(news.rows.tolist())
        removed |= set(news.removed.tolist())
        known = news.sequence
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    news = store.changes_since(known)
    live = (follower | set(news.rows.tolist())) - removed - set(news.removed.tolist())
    assert len(store) == 121
    assert live == set(store.changes_since(0).rows.tolist())


class Replica(RuleBasedStateMachine):
    """A store, a dictionary that says what must be in it, and a follower that lives on news."""

    def __init__(self):
        super().__init__()
        self.expected = {}
        self.follower = {}
        self.known = 0

    @initialize()
    def create(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "index"
        self.store = Store.create(self.folder, PROFILE, 4)
        self.reader = Store.open(self.folder)

    ids = st.sampled_from(["a", "b", "c", "ñ", "a\0", "😀"]) | st.text(min_size=1, max_size=5)
    change = st.tuples(ids, st.none() | st.integers(0, 3), st.integers(0, 2))

    @rule(changes=st.lists(change, max_size=6))
    def write(self, changes):
        made = [Delete(id_) if axis is None else upsert(id_, axis, n=n) for id_, axis, n in changes]
        results = self.store.write(made)
        for (id_, axis, n), result in zip(changes, results, strict=True):
            if axis is None:
                assert (result == 0) == (id_ not in self.expected)
                self.expected.pop(id_, None)
            else:
                self.expected[id_] = (axis, n)

    @rule()
    def follow(self):
        news = self.reader.changes_since(self.known)
        for row in news.removed.tolist():
            self.follower.pop(row, None)
        for row, vector in zip(news.rows.tolist(), news.vectors, strict=True):
            self.follower[row] = int(vector.argmax())
        self.known = news.sequence
        names = self.reader.ids_and_documents(list(self.follower))
        found = {
            names[row][0]: (axis, json.loads(names[row][1])["n"])
            for row, axis in self.follower.items()
        }
        assert found == self.expected

    @rule()
    def purge_what_the_follower_knows(self):
        self.store.purge(self.known)

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store.open(self.folder)

    @invariant()
    def same(self):
        if hasattr(self, "store"):
            assert len(self.store) == len(self.expected)
            for record, id_ in zip(self.store.get(list(self.expected)), self.expected, strict=True):
                axis, n = self.expected[id_]
                assert (record.id, json.loads(record.document)["n"]) == (id_, n)
                assert record.vector.argmax() == axis

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.reader.close()
            self.temporary.cleanup()


TestReplica = Replica.TestCase
TestReplica.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_connection_syncs_every_commit(store):
    (level,) = store._connection.execute("PRAGMA synchronous").fetchone()
    (mode,) = store._connection.execute("PRAGMA journal_mode").fetchone()
    assert (level, mode) == (2, "wal")
