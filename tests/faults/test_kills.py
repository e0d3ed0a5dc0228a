"""Writers, searchers and compactions are killed at random moments, and before every single step.

After each kill the whole index is read. Every acknowledged batch must be there, with its vectors
and documents. Of a killed writer's last batch, everything or nothing must be there. Sequence
numbers must have no gap, checksums must be right, the current snapshot must load, and a new
searcher must find what exact search finds.

The random moments are drawn from seeds, but what the processes do at such a moment depends on the
machine. So a failure says which moments they were, and no test expects a certain amount of work:
where work must have been done, the test waits for reports of it.
"""

import itertools
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from lensemble.index.maintenance.compact import compact
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import SNAPSHOTS, snapshot_names
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from tests.faults.harness import ExpectedIndex, check_index, note_on_failure, seeds
from tests.faults.worker import DIMENSION, PLANS, PROFILE, batch, build, vector

# Longest time in seconds between the last report that a test waits for and the worker's death.
# In this time the worker can do some more work.
LONGEST_S = 0.05


@pytest.fixture
def folder(tmp_path):
    Store.create(tmp_path / "index", PROFILE, DIMENSION).close()
    return tmp_path / "index"


def start_writer(fork_server, folder, expected, writer, **options):
    return fork_server.start(
        "write",
        folder=folder,
        seed=expected.seed,
        writer=writer,
        start=expected.applied[writer] + 1,
        **options,
    )


def at_random_moment(draw: random.Random, worker) -> list[str]:
    """Waits for 0 to 3 reports, then for a random time; returns the reports.

    With no report, the worker may have hardly started.
    """
    reports = worker.wait_for_reports(draw.randrange(4))
    time.sleep(draw.uniform(0, LONGEST_S))
    return reports


@seeds(0, 5)
def test_killed_writer(fork_server, folder, seed):
    """No other process has the index open, so the next one recovers SQLite's WAL file."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 1)
    for kill in range(12):
        # With 10 pages, nearly every kill is during a checkpoint; with 1,000, none is.
        pages = draw.choice((10, 1000))
        with note_on_failure(seed=seed, kill=kill, pages=pages):
            with start_writer(fork_server, folder, expected, 0, checkpoint_pages=pages) as writer:
                expected.acknowledge(0, at_random_moment(draw, writer))
                expected.acknowledge(0, writer.kill())
            check_index(folder, expected)


@seeds(10, 4)
def test_killed_writer_beside_another(fork_server, folder, seed):
    """The other writer goes on, because the lock of a process ends with it."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 2)

    def start(number):
        return start_writer(fork_server, folder, expected, number, checkpoint_pages=50)

    writers = {number: start(number) for number in range(2)}
    try:
        for kill in range(12):
            victim = draw.randrange(2)
            with note_on_failure(seed=seed, kill=kill, victim=victim):
                expected.acknowledge(victim, at_random_moment(draw, writers[victim]))
                expected.acknowledge(victim, writers.pop(victim).kill())
                check_index(folder, expected, writers)
                (survivor,) = writers
                expected.acknowledge(survivor, writers[survivor].wait_for_reports(1))
                writers[victim] = start(victim)
    finally:
        for writer in writers.values():
            writer.kill()


@seeds(20, 4)
def test_killed_compaction(fork_server, folder, seed):
    """A writer and a searcher go on; the next compaction deletes what the killed one left."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 1)
    with (
        start_writer(fork_server, folder, expected, 0) as writer,
        fork_server.start("search_repeatedly", folder=folder, seed=seed, writers=1) as searcher,
    ):
        for kill in range(15):
            with note_on_failure(seed=seed, kill=kill):
                with fork_server.start("compact_repeatedly", folder=folder, start=kill) as worker:
                    if kill % 5 == 4:  # the others are killed during their first compaction
                        worker.wait_for_reports(1)
                    time.sleep(draw.uniform(0, 2 * LONGEST_S))
                    worker.kill()
                check_index(folder, expected, {0: writer})
                searcher.wait_for_progress()
        expected.acknowledge(0, writer.kill())
    compact(folder)
    remaining = [path.name for path in (folder / SNAPSHOTS).iterdir()]
    assert sorted(remaining) == sorted(snapshot_names(folder))
    assert len(remaining) <= 2
    check_index(folder, expected)


@seeds(30, 3)
def test_killed_searcher(fork_server, folder, seed):
    """A writer and a compaction go on, because nobody waits for a dead reader."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 1)
    with (
        start_writer(fork_server, folder, expected, 0, checkpoint_pages=50) as writer,
        fork_server.start("compact_repeatedly", folder=folder, start=0) as compaction,
    ):
        for kill in range(12):
            with note_on_failure(seed=seed, kill=kill):
                with fork_server.start(
                    "search_repeatedly", folder=folder, seed=seed, writers=1
                ) as searcher:
                    at_random_moment(draw, searcher)
                    searcher.kill()
                check_index(folder, expected, {0: writer})
                compaction.wait_for_progress()


@seeds(40, 2)
def test_all_processes_killed_in_any_order(fork_server, folder, seed):
    """Two writers, a compaction and a searcher are killed, as when a machine stops."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 2)
    for turn in range(5):
        writers = {n: start_writer(fork_server, folder, expected, n) for n in range(2)}
        others = [
            fork_server.start("compact_repeatedly", folder=folder, start=turn),
            fork_server.start("search_repeatedly", folder=folder, seed=seed, writers=2),
        ]
        victims = [*writers.items(), *enumerate(others, start=2)]
        draw.shuffle(victims)
        with note_on_failure(seed=seed, turn=turn, order=[number for number, _ in victims]):
            expected.acknowledge(0, at_random_moment(draw, writers[0]))
            for number, victim in victims:
                reports = victim.kill()
                if number in writers:
                    expected.acknowledge(number, reports)
                time.sleep(draw.uniform(0, 0.02))
            check_index(folder, expected)


@seeds(60, 4)
def test_writer_killed_in_the_middle_of_a_page(fork_server, folder, seed):
    """The kill comes at any byte of the WAL file, or of the database file during a checkpoint."""
    draw = random.Random(seed)
    expected = ExpectedIndex(seed, 1)
    for kill in range(10):
        size = (folder / STORE_FILE).stat().st_size
        limit = draw.randrange(40_000, size + 200_000)
        pages = draw.choice((5, 1000))
        with note_on_failure(seed=seed, kill=kill, limit=limit, size=size, pages=pages):
            writer = start_writer(
                fork_server,
                folder,
                expected,
                0,
                checkpoint_pages=pages,
                file_bytes=limit,
                fatal=True,
            )
            status, reports = writer.wait()
            assert status == -signal.SIGXFSZ
            expected.acknowledge(0, reports)
            check_index(folder, expected)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kind)
def test_compaction_killed_in_the_middle_of_a_file(fork_server, tmp_path, plan):
    """The kill comes at any byte of any file; the previous snapshot stays the current one."""
    draw = random.Random(plan.kind)
    folder = tmp_path / "index"
    build(folder, 65, 2000, plan)
    (current,) = snapshot_names(folder)
    sizes = [path.stat().st_size for path in (folder / SNAPSHOTS / current).iterdir()]
    for kill in range(8):
        limit = draw.randrange(min(40_000, max(sizes) // 2), max(sizes))
        with note_on_failure(kill=kill, limit=limit, sizes=sizes):
            worker = fork_server.start("compact_once", folder=folder, file_bytes=limit, fatal=True)
            status, _ = worker.wait()
            assert status == -signal.SIGXFSZ
            with LiveIndex.open(folder) as live:
                assert live.manifest["snapshot"] == current
                assert len(live) == 2000
                for n in range(0, 2000, 100):
                    (hits,) = live.search(vector(65, n)[None], 1)
                    assert hits[0].document == json.dumps({"seed": 65, "n": n})
    newest = compact(folder).name
    assert {path.name for path in (folder / SNAPSHOTS).iterdir()} == {current, newest}


def test_write_killed_before_every_step(fork_server, folder):
    """The batch has new items, new versions and deletes; the last step is the commit."""
    expected = ExpectedIndex(50, 1)
    with Store.open(folder) as store:
        for number in range(5):
            expected.write(store, 0, number)
    check_index(folder, expected)
    for step in itertools.count(1):
        worker = fork_server.start(
            "step_write", folder=folder, step=step, seed=50, writer=0, number=5
        )
        with note_on_failure(step=step):
            status, reports = worker.wait()
            expected.acknowledge(0, reports)
            check_index(folder, expected)
            assert expected.applied[0] == (5 if status == 0 else 4)
        if status == 0:
            break
    assert step > len(batch(50, 0, 5))


def test_compaction_killed_before_every_step(fork_server, folder):
    """It makes a snapshot, purges rows, and deletes an older snapshot."""
    expected = ExpectedIndex(51, 1)
    with Store.open(folder) as store:
        for step in itertools.count(1):
            for number in (2 * step - 2, 2 * step - 1):
                expected.write(store, 0, number)
            worker = fork_server.start("step_compact", folder=folder, step=step, turn=step)
            with note_on_failure(step=step):
                status, _ = worker.wait()
                check_index(folder, expected)
            if status == 0:
                break
    assert step > 30
    names = snapshot_names(folder)
    assert sorted(path.name for path in (folder / SNAPSHOTS).iterdir()) == sorted(names)
    assert len(names) == 2


@pytest.fixture
def old_index(tmp_path):
    build(tmp_path / "old", 60, 3)
    return tmp_path / "old"


def seed_of(folder: Path) -> int:
    """The seed of an index whose items are all intact; 0 if there is no index."""
    if not folder.exists():
        return 0
    with Store.open(folder) as store:
        store.verify()
        (seed,) = {json.loads(item.document)["seed"] for item in store.live_items()}
        assert len(store) == {60: 3, 61: 4}[seed]
    return seed


def test_rebuild_killed_before_every_step(fork_server, old_index, tmp_path):
    """Either the old or the new index is complete, at the path where servers look for it."""
    seeds_found = []
    for step in itertools.count(1):
        folder = tmp_path / f"{step}" / "index"
        folder.parent.mkdir()
        shutil.copytree(old_index, folder)
        worker = fork_server.start("step_rebuild", folder=folder, step=step, seed=61, count=4)
        with note_on_failure(step=step):
            status, _ = worker.wait()
            seeds_found.append(seed_of(folder))
        if status == 0:
            break
    assert step > 40
    assert 0 not in seeds_found, f"no index after step {seeds_found.index(0)}"
    assert seeds_found == sorted(seeds_found)
    assert seeds_found[-1] == 61
