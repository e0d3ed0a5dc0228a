"""Full disks, files cut short, flipped bytes: all as before, or an error that names the file.

What is detected, and when:

snapshot  Checksums of all its files are in its manifest, and are looked at when it is loaded. What
          is damaged is left out, with a line in the log that names it; answers then come from the
          snapshot before or from the store alone, and are the same.
store     SQLite has no checksums of its own. What an item says (id, document, vector) has some, and
          every read looks at them: nothing wrong is given out. A flipped byte in SQLite's own trees
          can hide an item, so that `get` says that there is none and a search gives the next best:
          `Store.verify` finds that, reads need not. A byte that nobody reads changes nothing.
log       `store.sqlite-wal` is there while somebody has the index open, or after he was killed.
          SQLite drops all from the first damaged transaction on, and says nothing. So writes that
          were acknowledged are missing after such damage: the last ones, whole transactions.

Tests that are marked as failing are gaps, each with its reason.
"""

import contextlib
import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import MANIFEST, SNAPSHOTS, snapshot_names
from lensemble.index.snapshots.snapshot import DamagedError, Snapshot
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble_cli.main import main
from lensemble_contract.errors import LensembleError, StorageError
from tests.faults.harness import Truth, check, told
from tests.faults.worker import DIMENSION, PLANS, PROFILE, batch, build, vector

COUNT = 2000
KINDS = {plan.kind: plan for plan in PLANS[:2]}
WAL = f"{STORE_FILE}-wal"
QUERIES = np.stack([vector(9, n) for n in range(8)])
TODO = ("put a backup in its place", "make room on the disk", "make room, or let", "see whether")
"""One of these stands in every error: what is to be done."""


@dataclass
class Scene:
    """An index whose contents are known.

    Attributes:
        folder: Of the index; nobody has it open, and it is never changed.
        items: Vector and document by id.
        gone: Ids that were there.
    """

    folder: Path
    items: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def copy(self, to: Path) -> Path:
        """The same, to be damaged."""
        shutil.rmtree(to, ignore_errors=True)
        return Path(shutil.copytree(self.folder, to))

    def write(self, store: Store, changes: list[Upsert | Delete]) -> None:
        store.write(changes)
        for change in changes:
            if isinstance(change, Upsert):
                self.items[change.id] = (change.vector, change.document)
                self.gone.discard(change.id)
            elif self.items.pop(change.id, None):
                self.gone.add(change.id)

    def check(self, folder: Path) -> None:
        """Whether everything is as it was."""
        with LiveIndex.open(folder) as live:
            found = self.true_answers(live)
            assert len(live) == len(self.items)
            matrix = np.stack([vector for vector, _ in self.items.values()])
            for query, scores in zip(QUERIES, found, strict=True):
                best = np.sort(matrix @ query)[::-1][:10]
                assert np.allclose(scores, best, atol=1e-4)
        with Store.open(folder) as store:
            assert len(store) == len(self.items)
            assert self.true_records(store) == len(self.items)

    def true_answers(self, live: LiveIndex) -> list[list[float]]:
        """Scores, after a look whether every hit is an item as it is."""
        answers = live.search(QUERIES, 10)
        for query, found in zip(QUERIES, answers, strict=True):
            assert len({match.id for match in found}) == len(found)
            for match in found:
                known, document = self.items[match.id]
                assert match.document == document
                assert match.score == pytest.approx(float(known @ query), abs=1e-4)
        return [[match.score for match in found] for found in answers]

    def true_records(self, store: Store) -> int:
        """How many items are found by their ids, each as it is; none that is gone."""
        assert store.get(list(self.gone)) == [None] * len(self.gone)
        records = [record for record in store.get(list(self.items)) if record is not None]
        for record in records:
            known, document = self.items[record.id]
            assert record.document == document
            assert np.array_equal(record.vector, known)
        return len(records)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One of each kind, made once."""
    return {kind: make_scene(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def scene(scenes, request):
    return scenes[request.param]


@pytest.fixture
def exact(scenes):
    return scenes["exact"]


def make_scene(kind: str, folder: Path) -> Scene:
    """Two snapshots, and changes after each of them."""
    made = Scene(folder / "index")
    build(made.folder, 70, COUNT, KINDS[kind])
    for n in range(COUNT):
        made.items[f"{n}"] = (vector(70, n), json.dumps({"seed": 70, "n": n}))
    with Store.open(made.folder) as store:
        for turn in (1, 2):
            changes: list[Upsert | Delete] = [
                Upsert(f"{n * 7 * turn}", vector(70, n, turn), json.dumps({"n": n, "turn": turn}))
                for n in range(100)
            ]
            changes += [Delete(f"{n * 9 * turn + 1}") for n in range(100)]
            changes += [Upsert(f"new/{turn}/{n}", vector(71, n, turn)) for n in range(60)]
            made.write(store, changes)
            if turn == 1:
                compact(made.folder)
    assert len(snapshot_names(made.folder)) == 2
    assert not (made.folder / WAL).exists()
    made.check(made.folder)
    return made


def flip(path: Path, draw: random.Random) -> str:
    """Changes one bit; says which."""
    data = bytearray(path.read_bytes())
    at, bit = draw.randrange(len(data)), draw.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {len(data)}"


def cut(path: Path, draw: random.Random) -> str:
    """Leaves the beginning of a file; says how much."""
    data = path.read_bytes()
    left = draw.randrange(len(data))
    path.write_bytes(data[:left])
    return f"{left} of {len(data)} bytes left"


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_snapshot_changes_no_answer(scene, tmp_path, caplog, damage, seed):
    """The current one, or both; and the next compaction mends it."""
    draw = random.Random(f"{seed} {damage.__name__}")
    files = sorted({path.name for path in scene.folder.glob(f"{SNAPSHOTS}/*/*")})
    if damage is flip:
        files.remove(MANIFEST)  # test_flipped_byte_in_a_manifest
    for name in files:
        folder = scene.copy(tmp_path / "index")
        damaged = snapshot_names(folder)[: draw.choice((1, 1, 2))]
        places = [damage(folder / SNAPSHOTS / one / name, draw) for one in damaged]
        with told(seed=seed, name=name, damaged=damaged, places=places):
            caplog.clear()
            scene.check(folder)
            for one in damaged:
                assert f"{one}' cannot be used" in caplog.text
                assert "it will be made again from the store" in caplog.text
            compact(folder)
            caplog.clear()
            scene.check(folder)
            assert "cannot be used" not in caplog.text


def test_flipped_byte_in_a_manifest(scene, tmp_path):
    """A wrong sequence number hides what was written since; a wrong last row shows items twice."""
    draw = random.Random(72)
    folder = scene.copy(tmp_path / "index")
    name = snapshot_names(folder)[0]
    path = folder / SNAPSHOTS / name / MANIFEST
    whole, data = Snapshot.load(folder, name).manifest, path.read_bytes()
    silent = []
    for _ in range(60):
        place = flip(path, draw)
        with contextlib.suppress(DamagedError):
            if (said := Snapshot.load(folder, name).manifest) != whole:
                silent.append(f"{place}: {said}")
        path.write_bytes(data)
    assert not silent


def verdict(folder: Path) -> str:
    """What `verify` says of a store; nothing if it is whole."""
    try:
        with Store.open(folder) as store:
            store.verify()
    except LensembleError as error:
        said = str(error)
        assert STORE_FILE in said
        return said
    return ""


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_store_gives_out_nothing_wrong(scene, tmp_path, damage, seed):
    """See the head of this file: what is wrong is never given out; what is missing, `verify` finds.

    A cut is found by whoever opens the file.
    """
    draw = random.Random(f"{seed} {damage.__name__}")
    for run in range(5 if damage is cut else 12):
        folder = scene.copy(tmp_path / "index")
        place = damage(folder / STORE_FILE, draw)
        with told(seed=seed, run=run, place=place):
            said = verdict(folder)
            if not said:
                scene.check(folder)
                continue
            assert any(todo in said for todo in TODO), said
            for look in (look_by_id, look_by_search):
                try:
                    look(scene, folder)
                except LensembleError as error:
                    assert STORE_FILE in str(error)
                else:
                    assert damage is flip


def test_damaged_index_entries_are_named(exact, tmp_path):
    """A byte in SQLite's own indexes, that turns a key into NULL: the type of a record's column."""
    whole = bytearray((exact.folder / STORE_FILE).read_bytes())
    size = int.from_bytes(whole[16:18], "big")
    leaves = [at for at in range(size, len(whole), size) if whole[at] == 10]
    assert len(leaves) > 3
    for leaf in leaves:
        last = leaf + 6 + 2 * int.from_bytes(whole[leaf + 3 : leaf + 5], "big")
        record = leaf + int.from_bytes(whole[last : last + 2], "big")
        damaged = whole.copy()
        damaged[record + 2] = 0  # after the lengths of the record and of its head
        folder = exact.copy(tmp_path / "index")
        (folder / STORE_FILE).write_bytes(damaged)
        shutil.rmtree(folder / SNAPSHOTS)
        with told(leaf=leaf):
            assert verdict(folder)
            for look in (look_by_id, look_by_search):
                with contextlib.suppress(LensembleError):
                    look(exact, folder)


def look_by_id(scene: Scene, folder: Path) -> None:
    with Store.open(folder) as store:
        scene.true_records(store)


def look_by_search(scene: Scene, folder: Path) -> None:
    with LiveIndex.open(folder) as live:
        scene.true_answers(live)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE items SET id = CAST(id AS BLOB) WHERE row = 5",
        "UPDATE items SET document = CAST(document AS BLOB) WHERE row = 5",
        "UPDATE vectors SET vector = 5 WHERE row = 5",
        "UPDATE state SET dimension = dimension + 1",
        "UPDATE state SET purged = 'x'",
        "UPDATE state SET plan = '{'",
    ],
)
def test_value_of_another_type_is_named(exact, tmp_path, damage):
    """A flipped bit in a record's head makes a text bytes, or a number of another length."""
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute(damage)
    shutil.rmtree(folder / SNAPSHOTS)
    assert verdict(folder)
    for look in (look_by_id, look_by_search, compact_it):
        with contextlib.suppress(LensembleError):
            look(exact, folder)


def compact_it(scene: Scene, folder: Path) -> None:
    compact(folder)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE items SET digest = 'another' WHERE row = 5",
        "UPDATE state SET sequence = sequence - 8",
    ],
)
def test_value_that_no_checksum_covers_is_found(exact, tmp_path, damage):
    """A lower sequence number is given out again, and who had it before misses a write."""
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute(damage)
    assert verdict(folder)


def test_text_that_is_not_unicode_is_damage(exact, tmp_path):
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute("UPDATE items SET document = CAST(X'ff' AS TEXT) WHERE row = 5")
    assert "put a backup in its place" in verdict(folder)


@pytest.fixture(scope="module")
def logged(nursery, tmp_path_factory):
    """An index with all its batches in the log; and by batch the last sequence number."""
    folder = tmp_path_factory.mktemp("logged") / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    return folder, write_and_die(nursery, folder, 0, 40)


def write_and_die(nursery, folder, start, stop):
    """Batches of a writer that is killed, so that they stay in the log."""
    writer = nursery.start(
        "write",
        folder=folder,
        seed=80,
        writer=0,
        start=start,
        stop=stop,
        checkpoint_pages=1_000_000,
    )
    status, lines = writer.end()
    assert status == -9
    return {number: last for number, last in (map(int, line.split()) for line in lines)}


def check_beginning(folder: Path, told_: dict[int, int], snapshot_lost: bool = False) -> int:
    """Whether an index holds some first batches and nothing else; says which was the last."""
    with Store.open(folder) as store:
        (mark,) = store.get(["last/0"])
    last = json.loads(mark.document)["batch"] if mark else -1
    truth = Truth(80, 1)
    truth.told[0] = {number: at for number, at in told_.items() if number <= last}
    check(folder, truth, snapshot_lost=snapshot_lost)
    # And it goes on from there.
    with Store.open(folder) as store:
        for number in range(last + 1, last + 4):
            truth.hear(0, [f"{number} {store.write(batch(80, 0, number))[-1]}"])
    check(folder, truth, snapshot_lost=snapshot_lost)
    return last


@pytest.mark.parametrize("damage", [cut, flip])
def test_damaged_log_loses_whole_transactions(logged, tmp_path, damage):
    whole, told_ = logged
    draw = random.Random(damage.__name__)
    left = []
    for run in range(16):
        folder = tmp_path / f"{run}"
        shutil.copytree(whole, folder)
        place = damage(folder / WAL, draw)
        with told(run=run, place=place):
            left.append(check_beginning(folder, told_))
    assert len(set(left)) > 8


@pytest.mark.parametrize("first", [False, True])
def test_snapshot_of_what_was_lost_is_not_searched(nursery, tmp_path, first, caplog, capsys):
    """The log was cut, and with it the row numbers that the snapshot speaks of: they come again.

    The same happens where somebody puts back an older `store.sqlite` alone.
    """
    folder = tmp_path / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    if first:
        compact(folder)
    told_ = write_and_die(nursery, folder, 0, 20)
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    shutil.rmtree(saved / SNAPSHOTS, ignore_errors=True)
    for _ in range(2):  # the snapshot that the rest of the log names is gone
        compact(folder)
    shutil.copytree(folder / SNAPSHOTS, saved / SNAPSHOTS)
    log = saved / WAL
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    # Whoever asks is told what is gone.
    assert main(["index", "verify", str(saved)]) == 1
    with Store.open(saved) as store:
        lost = f"changes {store.sequence + 1} to {max(told_.values())}"
    assert f"error: {lost} were lost" in capsys.readouterr().err
    LiveIndex.open(saved).close()
    assert f"lost {lost}" in caplog.text
    assert 0 < check_beginning(saved, told_, snapshot_lost=first) < 19


@pytest.mark.parametrize("spare", [0, 1, 2, 5, 20, 60])
def test_full_disk_by_pages(tmp_path, spare):
    """SQLite itself is told that there is no more room."""
    folder = tmp_path / "index"
    truth = Truth(81, 1)
    Store.create(folder, PROFILE, DIMENSION).close()
    with Store.open(folder) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + spare}")
        with pytest.raises(StorageError, match=rf"{STORE_FILE}.*full; make room on the disk"):
            for number in range(1000):
                truth.hear(0, [f"{number} {store.write(batch(81, 0, number))[-1]}"])
        check(folder, truth)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        next_ = truth.applied[0] + 1
        truth.hear(0, [f"{next_} {store.write(batch(81, 0, next_))[-1]}"])
    check(folder, truth)


@pytest.mark.parametrize("seed", range(12))
def test_file_that_may_not_grow(nursery, tmp_path, seed):
    """EFBIG at any byte of the log, of the file in a checkpoint, and when it is closed."""
    draw = random.Random(seed)
    folder = tmp_path / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    truth = Truth(seed, 1)
    for run in range(2):
        limit, pages = draw.randrange(40_000, 900_000), draw.choice((10, 1000))
        with told(seed=seed, run=run, limit=limit, pages=pages):
            writer = nursery.start(
                "write",
                folder=folder,
                seed=seed,
                writer=0,
                start=truth.applied[0] + 1,
                stop=truth.applied[0] + 500,
                checkpoint_pages=pages,
                file_bytes=limit,
            )
            status, lines = writer.end()
            assert status == 0, "it was never refused"
            refused = lines.pop()
            assert refused.startswith("refused")
            assert STORE_FILE in refused
            assert any(todo in refused for todo in TODO), refused
            truth.hear(0, lines)
            check(folder, truth)
    with Store.open(folder) as store:
        number = truth.applied[0] + 1
        truth.hear(0, [f"{number} {store.write(batch(seed, 0, number))[-1]}"])
    check(folder, truth)


def limits(scene, draw):
    """Some in each file of a snapshot, that let the store's own files grow as much as they need."""
    sizes = {path.stat().st_size for path in scene.folder.glob(f"{SNAPSHOTS}/*/*")}
    return [draw.randrange(40_000, size - 4096) for size in sizes if size > 50_000 for _ in "123"]


def test_snapshot_that_cannot_be_written(scene, nursery, tmp_path):
    """The one before stays current, and nothing of the new one is left."""
    for limit in limits(scene, random.Random(83)):
        folder = scene.copy(tmp_path / "index")
        before = snapshot_names(folder)
        with told(limit=limit):
            worker = nursery.start("compact_once", folder=folder, file_bytes=limit)
            _, (said,) = worker.end()
            assert said.startswith("refused")
            assert "the store is whole" in said
            assert not list((folder / SNAPSHOTS).glob(".*"))
            assert snapshot_names(folder) == before
            scene.check(folder)


def test_snapshot_without_its_last_bytes(scene, nursery, tmp_path):
    """They are in a buffer of stdio's until the file is closed, and nobody looks how that ends."""
    folder = scene.copy(tmp_path / "index")
    compact(folder)
    largest = max(
        path.stat().st_size for path in (folder / SNAPSHOTS / snapshot_names(folder)[0]).iterdir()
    )
    for lacking in (1, 100, 4000):
        folder = scene.copy(tmp_path / "index")
        worker = nursery.start("compact_once", folder=folder, file_bytes=largest - lacking)
        _, (said,) = worker.end()
        assert said.startswith("refused")
        scene.check(folder)
        with Store.open(folder) as store:
            Snapshot.load(folder, store.snapshot)
