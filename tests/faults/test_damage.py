"""Truncated files and flipped bits: results stay the same, or an error names the file.

What is detected, and when:

snapshot  The manifest has checksums of all files, which are compared when the snapshot is loaded. A
          damaged snapshot is not used, and a log line names it. Answers then come from the previous
          snapshot or from the store alone, and are the same.
store     SQLite has no checksums of its own. Ids, documents and vectors have some, and every read
          compares them, so nothing wrong is returned. A flipped bit in SQLite's own trees can hide
          an item: `get` then says that there is none, and a search returns the next best one.
          `Store.verify` finds that; reads need not. A byte that nobody reads changes nothing.
WAL file  `store.sqlite-wal` exists while a process has the index open, or after it was killed.
          SQLite drops everything from the first damaged transaction on, without an error. So after
          such damage the last acknowledged writes are missing, in whole transactions.
"""

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import MANIFEST, SNAPSHOTS, snapshot_names
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble_cli.main import main
from lensemble_contract.errors import LensembleError
from tests.faults.harness import ExpectedIndex, check_index, note_on_failure, seeds
from tests.faults.known_index import REMEDIES, WAL, KnownIndex, flip_bit, truncate
from tests.faults.worker import DIMENSION, PROFILE


@pytest.mark.parametrize("damage", [truncate, flip_bit])
@seeds(0, 4)
def test_damaged_snapshot_does_not_change_results(known, tmp_path, caplog, damage, seed):
    """Damages the current snapshot, or both; the next compaction makes a new one."""
    draw = random.Random(f"{seed} {damage.__name__}")
    files = sorted({path.name for path in known.folder.glob(f"{SNAPSHOTS}/*/*")})
    if damage is flip_bit:
        files.remove(MANIFEST)  # test_flipped_bit_in_a_manifest
    for name in files:
        folder = known.copy(tmp_path / "index")
        damaged = snapshot_names(folder)[: draw.choice((1, 1, 2))]
        places = [damage(folder / SNAPSHOTS / snapshot / name, draw) for snapshot in damaged]
        with note_on_failure(seed=seed, name=name, damaged=damaged, places=places):
            caplog.clear()
            known.check(folder)
            for snapshot in damaged:
                assert f"{snapshot}' cannot be used" in caplog.text
                assert "it will be made again from the store" in caplog.text
            compact(folder)
            caplog.clear()
            known.check(folder)
            assert "cannot be used" not in caplog.text


def test_flipped_bit_in_a_manifest(known, tmp_path):
    """A wrong sequence number would hide later writes; a wrong last row would show items twice."""
    draw = random.Random(72)
    folder = known.copy(tmp_path / "index")
    name = snapshot_names(folder)[0]
    path = folder / SNAPSHOTS / name / MANIFEST
    intact, data = Snapshot.load(folder, name).manifest, path.read_bytes()
    undetected = []
    for _ in range(60):
        place = flip_bit(path, draw)
        with contextlib.suppress(DamagedSnapshotError):
            if (manifest := Snapshot.load(folder, name).manifest) != intact:
                undetected.append(f"{place}: {manifest}")
        path.write_bytes(data)
    assert not undetected


def verify_error(folder: Path) -> str:
    """The error of `verify`; empty if the store is intact."""
    try:
        with Store.open(folder) as store:
            store.verify()
    except LensembleError as error:
        message = str(error)
        assert STORE_FILE in message
        return message
    return ""


@pytest.mark.parametrize("damage", [truncate, flip_bit])
@seeds(0, 4)
def test_damaged_store_returns_nothing_wrong(known, tmp_path, damage, seed):
    """Nothing wrong is returned, and `verify` finds missing items (see the top of this file).

    A truncated file is detected by every process that opens it.
    """
    draw = random.Random(f"{seed} {damage.__name__}")
    for run in range(5 if damage is truncate else 12):
        folder = known.copy(tmp_path / "index")
        place = damage(folder / STORE_FILE, draw)
        with note_on_failure(seed=seed, run=run, place=place):
            message = verify_error(folder)
            if not message:
                known.check(folder)
                continue
            assert any(remedy in message for remedy in REMEDIES), message
            for look in (look_by_id, look_by_search):
                try:
                    look(known, folder)
                except LensembleError as error:
                    assert STORE_FILE in str(error)
                else:
                    assert damage is flip_bit


def test_damaged_entries_of_sql_indexes_are_reported(exact, tmp_path):
    """A byte of SQLite's own indexes is changed: a column's type, which turns a key into NULL."""
    intact = bytearray((exact.folder / STORE_FILE).read_bytes())
    size = int.from_bytes(intact[16:18], "big")
    leaves = [start for start in range(size, len(intact), size) if intact[start] == 10]
    assert len(leaves) > 3
    for leaf in leaves:
        last = leaf + 6 + 2 * int.from_bytes(intact[leaf + 3 : leaf + 5], "big")
        record = leaf + int.from_bytes(intact[last : last + 2], "big")
        damaged = intact.copy()
        damaged[record + 2] = 0  # the first type, after the lengths of the record and of its header
        folder = exact.copy(tmp_path / "index")
        (folder / STORE_FILE).write_bytes(damaged)
        shutil.rmtree(folder / SNAPSHOTS)
        with note_on_failure(leaf=leaf):
            assert verify_error(folder)
            for look in (look_by_id, look_by_search):
                with contextlib.suppress(LensembleError):
                    look(exact, folder)


def look_by_id(known: KnownIndex, folder: Path) -> None:
    with Store.open(folder) as store:
        known.check_items(store)


def look_by_search(known: KnownIndex, folder: Path) -> None:
    with LiveIndex.open(folder) as live:
        known.check_hits(live)


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
def test_value_of_another_type_is_reported(exact, tmp_path, damage):
    """A flipped bit in a record's header can turn text into bytes, or change a number's length."""
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute(damage)
    shutil.rmtree(folder / SNAPSHOTS)
    assert verify_error(folder)
    for look in (look_by_id, look_by_search, compact_index):
        with contextlib.suppress(LensembleError):
            look(exact, folder)


def compact_index(known: KnownIndex, folder: Path) -> None:
    compact(folder)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE items SET digest = 'another' WHERE row = 5",
        "UPDATE state SET sequence = sequence - 8",
    ],
)
def test_changed_digest_or_sequence_number_is_detected(exact, tmp_path, damage):
    """A lower sequence number would be used again, and searchers would miss a write."""
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute(damage)
    assert verify_error(folder)


def test_text_that_is_not_unicode_is_reported_as_damage(exact, tmp_path):
    folder = exact.copy(tmp_path / "index")
    with Store.open(folder) as store:
        store._connection.execute("UPDATE items SET document = CAST(X'ff' AS TEXT) WHERE row = 5")
    assert "put a backup in its place" in verify_error(folder)


@pytest.fixture(scope="module")
def killed_index(fork_server, tmp_path_factory):
    """An index with all its batches in the WAL file, and the last sequence number of each batch."""
    folder = tmp_path_factory.mktemp("killed") / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    return folder, write_until_killed(fork_server, folder, 0, 40)


def write_until_killed(fork_server, folder, start, stop):
    """Writes batches in a process that is then killed, so they stay in the WAL file."""
    writer = fork_server.start(
        "write",
        folder=folder,
        seed=80,
        writer=0,
        start=start,
        stop=stop,
        checkpoint_pages=1_000_000,
    )
    status, reports = writer.wait()
    assert status == -9
    return {number: last for number, last in (map(int, line.split()) for line in reports)}


def check_first_batches(
    folder: Path, acknowledged: dict[int, int], snapshot_lost: bool = False
) -> int:
    """Checks that an index has the first batches and nothing else, and can be written.

    Returns:
        Number of the last batch.
    """
    with Store.open(folder) as store:
        (mark,) = store.get(["last/0"])
    last = json.loads(mark.document)["batch"] if mark else -1
    expected = ExpectedIndex(80, 1)
    expected.acknowledged[0] = {
        number: sequence for number, sequence in acknowledged.items() if number <= last
    }
    check_index(folder, expected, snapshot_lost=snapshot_lost)
    with Store.open(folder) as store:
        for number in range(last + 1, last + 4):
            expected.write(store, 0, number)
    check_index(folder, expected, snapshot_lost=snapshot_lost)
    return last


@pytest.mark.parametrize("damage", [truncate, flip_bit])
def test_damaged_wal_file_loses_whole_transactions(killed_index, tmp_path, damage):
    intact, acknowledged = killed_index
    draw = random.Random(damage.__name__)
    last_batches = []
    for run in range(16):
        folder = tmp_path / f"{run}"
        shutil.copytree(intact, folder)
        place = damage(folder / WAL, draw)
        with note_on_failure(run=run, place=place):
            last_batches.append(check_first_batches(folder, acknowledged))
    assert len(set(last_batches)) > 8


@pytest.mark.parametrize("first", [False, True])
def test_snapshot_of_lost_changes_is_not_used(fork_server, tmp_path, first, caplog, capsys):
    """The WAL file is truncated, so the store uses row numbers again that the snapshot has, too.

    The same happens if an older `store.sqlite` is put back without its snapshots.
    """
    folder = tmp_path / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    if first:
        compact(folder)
    acknowledged = write_until_killed(fork_server, folder, 0, 20)
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    shutil.rmtree(saved / SNAPSHOTS, ignore_errors=True)
    for _ in range(2):  # deletes the snapshot that the rest of the WAL file names
        compact(folder)
    shutil.copytree(folder / SNAPSHOTS, saved / SNAPSHOTS)
    wal = saved / WAL
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])
    assert main(["index", "verify", str(saved)]) == 1
    with Store.open(saved) as store:
        lost = f"{store.sequence + 1} to {max(acknowledged.values())}"
    assert f"error: the store has lost the writes {lost}" in capsys.readouterr().err
    LiveIndex.open(saved).close()
    assert f"lost changes {lost}" in caplog.text
    assert 0 < check_first_batches(saved, acknowledged, snapshot_lost=first) < 19
