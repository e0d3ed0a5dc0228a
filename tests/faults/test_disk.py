"""Full disks and files that may not grow: nothing is lost, and the error says what to do."""

import random

import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.snapshots.manifest import SNAPSHOTS, snapshot_names
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble_contract.errors import StorageError
from tests.faults.harness import ExpectedIndex, check_index, note_on_failure, seeds
from tests.faults.known_index import REMEDIES
from tests.faults.worker import DIMENSION, PROFILE


@pytest.mark.parametrize("spare", [0, 1, 2, 5, 20, 60])
def test_full_disk_by_pages(tmp_path, spare):
    """SQLite's own limit for the number of pages stands for a full disk."""
    folder = tmp_path / "index"
    expected = ExpectedIndex(81, 1)
    Store.create(folder, PROFILE, DIMENSION).close()
    with Store.open(folder) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + spare}")
        with pytest.raises(StorageError, match=rf"{STORE_FILE}.*full; make room on the disk"):
            for number in range(1000):
                expected.write(store, 0, number)
        check_index(folder, expected)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        expected.write(store, 0, expected.applied[0] + 1)
    check_index(folder, expected)


@seeds(0, 12)
def test_write_to_a_file_that_may_not_grow(fork_server, tmp_path, seed):
    """EFBIG at any byte of the WAL file, or of the database file in a checkpoint or on closing."""
    draw = random.Random(seed)
    folder = tmp_path / "index"
    Store.create(folder, PROFILE, DIMENSION).close()
    expected = ExpectedIndex(seed, 1)
    for run in range(2):
        limit, pages = draw.randrange(40_000, 900_000), draw.choice((10, 1000))
        with note_on_failure(seed=seed, run=run, limit=limit, pages=pages):
            writer = fork_server.start(
                "write",
                folder=folder,
                seed=seed,
                writer=0,
                start=expected.applied[0] + 1,
                stop=expected.applied[0] + 500,
                checkpoint_pages=pages,
                file_bytes=limit,
            )
            status, reports = writer.wait()
            assert status == 0, "no write was refused"
            refused = reports.pop()
            assert refused.startswith("refused")
            assert STORE_FILE in refused
            assert any(remedy in refused for remedy in REMEDIES), refused
            expected.acknowledge(0, reports)
            check_index(folder, expected)
    with Store.open(folder) as store:
        expected.write(store, 0, expected.applied[0] + 1)
    check_index(folder, expected)


def size_limits(known, draw):
    """Limits inside each file of a snapshot, but large enough for the store's own files."""
    sizes = {path.stat().st_size for path in known.folder.glob(f"{SNAPSHOTS}/*/*")}
    return [
        draw.randrange(40_000, size - 4096) for size in sizes if size > 50_000 for _ in range(3)
    ]


def test_snapshot_that_cannot_be_written(known, fork_server, tmp_path):
    """The previous snapshot stays current, and no file of the new one is left."""
    for limit in size_limits(known, random.Random(83)):
        folder = known.copy(tmp_path / "index")
        before = snapshot_names(folder)
        with note_on_failure(limit=limit):
            worker = fork_server.start("compact_once", folder=folder, file_bytes=limit)
            _, (report,) = worker.wait()
            assert report.startswith("refused")
            assert "the store is undamaged" in report
            assert not list((folder / SNAPSHOTS).glob(".*"))
            assert snapshot_names(folder) == before
            known.check(folder)


def test_snapshot_without_its_last_bytes(known, fork_server, tmp_path):
    """The last bytes are written when the file is closed, and FAISS does not check the result."""
    folder = known.copy(tmp_path / "index")
    compact(folder)
    largest = max(
        path.stat().st_size for path in (folder / SNAPSHOTS / snapshot_names(folder)[0]).iterdir()
    )
    for missing in (1, 100, 4000):
        folder = known.copy(tmp_path / "index")
        worker = fork_server.start("compact_once", folder=folder, file_bytes=largest - missing)
        _, (report,) = worker.wait()
        assert report.startswith("refused")
        known.check(folder)
        with Store.open(folder) as store:
            Snapshot.load(folder, store.snapshot)
