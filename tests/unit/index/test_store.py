"""The store: acknowledged changes are there, in order, for every reader; damage is reported."""

import json
import subprocess
import sys
import tempfile
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
from lensemble_contract.errors import InvalidInputError, StorageError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXES = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 4) as created:
        yield created


def upsert(id_, axis=0, **document):
    return Upsert(id_, AXES[axis], json.dumps(document))


def test_writes_are_visible_to_other_connections(store):
    with Store.open(store.folder) as other:
        assert len(other) == 0
        before = other.data_version
        assert store.write([upsert("a", 0, colour="red"), upsert("b", 1)]) == [1, 2]
        assert other.data_version != before
        assert (len(other), other.sequence) == (2, 2)
        a, missing = other.get(["a", "c"])
        assert missing is None
        assert (a.id, json.loads(a.document)) == ("a", {"colour": "red"})
        assert np.array_equal(a.vector, AXES[0])
        assert other.ids_and_documents([a.row, 99]) == {a.row: ("a", '{"colour": "red"}')}
        assert (other.profile_hash, other.dimension) == (PROFILE.hash, 4)


def test_upsert_of_an_existing_item_writes_a_new_row_and_a_tombstone(store):
    store.write([upsert("a", 0), upsert("b", 1)])
    old = store.get(["a"])[0].row
    known = store.sequence
    assert store.write([upsert("a", 2), Delete("b"), Delete("never there")]) == [3, 4, 0]
    changes = store.changes_since(known)
    (new,) = changes.rows
    assert new > old
    assert np.array_equal(changes.vectors, AXES[2:3])
    assert changes.removed.tolist() == [old, 2]
    assert changes.sequence == 4
    assert len(store) == 1


def test_equal_upsert_changes_nothing(store):
    assert store.write([upsert("a", 0, n=1)]) == [1]
    assert store.write([upsert("a", 0, n=1)]) == [1]
    assert store.write([upsert("a", 0, n=2)]) == [2]
    assert store.write([upsert("a", 1, n=2)]) == [3]
    assert store.sequence == 3


def test_row_numbers_are_never_reused(store):
    store.write([upsert("a")])
    store.write([Delete("a")])
    assert store.purge(store.sequence) == 1
    store.write([upsert("b")])
    assert store.get(["b"])[0].row == 2


def test_last_change_of_an_id_in_one_call_wins(store):
    store.write([upsert("a", 0), upsert("a", 1), Delete("a"), upsert("a", 2)])
    assert np.array_equal(store.get(["a"])[0].vector, AXES[2])
    assert store.changes_since(0).rows.tolist() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (upsert(""), "expected 1 to 512"),
        (upsert("x" * 513), "has 513 bytes"),
        (Delete("\udcff"), "unpaired surrogate; expected valid Unicode"),
        (Delete("a\0b"), r"id: .a.x00b. is a text with U.0000"),
        (Upsert("a", AXES[0, :3]), "has 3 dimensions, the index 4"),
        (Upsert("a", AXES[0] * np.nan), "not finite"),
        (Upsert("a", AXES[0] * 2), "has length 2; expected 1"),
        (Upsert("a", AXES[0] * 0), "has length 0; expected 1"),
        (Upsert("a", AXES[0], "{"), "not JSON: .*property name"),
        (Upsert("a", AXES[0], '{"n": NaN}'), "NaN is not a JSON value"),
        (Upsert("a", AXES[0], "[1]"), r"\[1\]; expected a JSON object"),
        (Upsert("a", AXES[0], '{"d": "\udcff"}'), "the value at 'd' is .*unpaired surrogate"),
        (
            Upsert("a", AXES[0], '{"a":' * 5000 + "1" + "}" * 5000),
            "nested more than 50 levels deep",
        ),
        (Upsert("a", AXES[0], json.dumps({"d": "x" * 70_000})), "expected at most 65536"),
    ],
)
def test_invalid_change_is_refused_and_others_are_written(store, change, message):
    first, refused, last = store.write([upsert("one"), change, upsert("two")])
    assert (first, last) == (1, 2)
    assert isinstance(refused, InvalidInputError)
    with pytest.raises(InvalidInputError, match=message):
        raise refused
    assert len(store) == 2


def test_reader_that_missed_purged_tombstones_gets_an_error(store):
    store.write([upsert("a"), upsert("b")])
    store.write([Delete("a")])
    store.purge(3)
    with pytest.raises(TombstonesPurgedError):
        store.changes_since(2)
    assert store.changes_since(3).rows.tolist() == []
    assert len(store) == 1


def test_many_rows_are_returned_in_order(store):
    store.write([upsert(str(n), n % 4) for n in range(5000)])
    changes = store.changes_since(0)
    assert changes.rows.tolist() == list(range(1, 5001))
    assert np.array_equal(changes.vectors, AXES[np.arange(5000) % 4])
    # More parameters than SQLite allows in one statement.
    assert len(store.ids_and_documents(list(range(70_000)))) == 5000


def test_reading_changes_does_not_scan_older_rows(store):
    """Measured as steps of SQLite's virtual machine, in hundreds, not as time."""
    store.write([upsert(str(n), n % 4) for n in range(5000)])

    def steps(work):
        count = 0

        def progress():
            nonlocal count
            count += 1

        store._connection.set_progress_handler(progress, 100)
        work()
        store._connection.set_progress_handler(None, 0)
        return count

    known = store.sequence
    assert steps(lambda: store.changes_since(0)) > 200
    store.write([upsert("new"), upsert("7"), Delete("8")])
    assert steps(lambda: store.changes_since(known)) < 5
    assert steps(lambda: store.count_changes_since(known)) < 5
    assert store.changes_since(known).rows.tolist() == [5001, 5002]


def test_full_disk_keeps_earlier_changes(store):
    store.write([upsert("a")])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full; make room on the disk"):
        store.write([upsert(str(n), n=n, text="x" * 1000) for n in range(50)])
    assert (len(store), store.sequence) == (1, 1)
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.write([upsert("b")]) == [2]


def test_locked_file_is_reported(store):
    with Store.open(store.folder) as other:
        other._connection.execute("PRAGMA busy_timeout = 50")
        store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"store\.sqlite.*locked.*try again"):
            other.write([upsert("a")])
        store._connection.execute("ROLLBACK")
        assert other.write([upsert("a")]) == [1]


def test_flipped_bytes_are_detected(store):
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


@pytest.mark.parametrize(
    "damage", ["vectors SET vector = zeroblob(16)", "items SET item_check = 0"]
)
def test_upsert_of_a_damaged_item_repairs_it(store, damage):
    item = Upsert("a", AXES[0], "{}", "d")
    assert store.write([item]) == [1]
    assert store.write([item]) == [1]
    store._connection.execute(f"UPDATE {damage}")
    with pytest.raises(StorageError, match="is damaged"):
        store.get(["a"])
    assert store.write([item]) == [2]
    assert np.array_equal(store.get(["a"])[0].vector, AXES[0])


def test_damaged_file_is_reported(store):
    store.write([upsert(str(n), n % 4) for n in range(200)])
    store.close()
    path = store.folder / STORE_FILE
    intact = path.read_bytes()
    path.write_bytes(b"SQLate" + intact[6:])
    with pytest.raises(StorageError, match="not a database; it is damaged; put a backup"):
        Store.open(store.folder)
    path.write_bytes(intact[: len(intact) // 2])
    with (
        pytest.raises(StorageError, match="malformed; it is damaged; put a backup"),
        Store.open(store.folder) as truncated,
    ):
        truncated.changes_since(0)


def test_missing_existing_or_unknown_store_is_refused(tmp_path, store):
    with pytest.raises(InvalidInputError, match=r"no store\.sqlite in .*lensemble index build"):
        Store.open(tmp_path)
    with pytest.raises(InvalidInputError, match="exists already"):
        Store.create(store.folder, PROFILE, 4)
    store._connection.execute("UPDATE state SET format = 99")
    with pytest.raises(InvalidInputError, match="has format 99; expected 4"):
        Store.open(store.folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"):
        Store.create(tmp_path / "file", PROFILE, 4)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.store import Store

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
axes = np.eye(4, dtype=np.float32)
with Store.open(folder) as store:
    for n in range(count):
        results = store.write([Upsert("shared", axes[n % 4]), Upsert(f"{name}-{n}", axes[n % 4])])
        assert all(isinstance(result, int) for result in results), results
"""


def test_processes_that_write_at_the_same_time_take_turns(store):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder), name, "40"])
        for name in "abc"
    ]
    followed, removed = set(), set()
    known = 0
    running = True
    while running:
        running = any(writer.poll() is None for writer in writers)
        changes = store.changes_since(known)  # once more after the last writer has ended
        followed |= set(changes.rows.tolist())
        removed |= set(changes.removed.tolist())
        known = changes.sequence
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(store) == 121
    assert followed - removed == set(store.changes_since(0).rows.tolist())


class Replica(RuleBasedStateMachine):
    """A store, a dictionary with its expected contents, and a follower that applies changes."""

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

    ids = st.sampled_from(["a", "b", "c", "ñ", "a\n", "😀"]) | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5
    )
    change = st.tuples(ids, st.none() | st.integers(0, 3), st.integers(0, 2))

    @rule(changes=st.lists(change, max_size=6))
    def write(self, changes):
        to_write = [
            Delete(id_) if axis is None else upsert(id_, axis, n=n) for id_, axis, n in changes
        ]
        results = self.store.write(to_write)
        for (id_, axis, n), result in zip(changes, results, strict=True):
            if axis is None:
                assert (result == 0) == (id_ not in self.expected)
                self.expected.pop(id_, None)
            else:
                self.expected[id_] = (axis, n)

    @rule()
    def follow(self):
        changes = self.reader.changes_since(self.known)
        for row in changes.removed.tolist():
            self.follower.pop(row, None)
        for row, vector in zip(changes.rows.tolist(), changes.vectors, strict=True):
            self.follower[row] = int(vector.argmax())
        self.known = changes.sequence
        names = self.reader.ids_and_documents(list(self.follower))
        followed = {
            names[row][0]: (axis, json.loads(names[row][1])["n"])
            for row, axis in self.follower.items()
        }
        assert followed == self.expected

    @rule()
    def purge_up_to_the_follower(self):
        self.store.purge(self.known)

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store.open(self.folder)

    @invariant()
    def store_equals_the_dictionary(self):
        if hasattr(self, "store"):
            assert len(self.store) == len(self.expected)
            for item, id_ in zip(self.store.get(list(self.expected)), self.expected, strict=True):
                axis, n = self.expected[id_]
                assert (item.id, json.loads(item.document)["n"]) == (id_, n)
                assert item.vector.argmax() == axis

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
