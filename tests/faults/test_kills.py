"""Writers, searchers and compactions are killed at random moments, and before every single step.

After each kill all of the index is read: every acknowledged batch is there, with its vectors and
documents; of a killed writer's last batch all is there or nothing; sequence numbers have no gap;
checksums are right; the current snapshot loads; a new searcher agrees with exact search. Moments
are drawn from seeds, but what they hit depends on the machine: a failure says which they were.
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
from tests.faults.harness import Truth, check, told, wait_for_report
from tests.faults.worker import DIMENSION, PLANS, PROFILE, batch, build, vector

LONGEST_S = 0.12
"""Between a worker's start and its death: it has opened the index by then, and done some work."""


@pytest.fixture
def folder(tmp_path):
    Store.create(tmp_path / "index", PROFILE, DIMENSION).close()
    return tmp_path / "index"


def start_writer(nursery, folder, truth, writer, **more):
    start = truth.applied[writer] + 1
    return nursery.start(
        "write", folder=folder, seed=truth.seed, writer=writer, start=start, **more
    )


@pytest.mark.parametrize("seed", range(5))
def test_killed_writer(nursery, folder, seed):
    """Alone: who opens the index next recovers SQLite's log."""
    draw = random.Random(seed)
    truth = Truth(seed, 1)
    for kill in range(12):
        delay_s = draw.uniform(0, LONGEST_S)
        pages = draw.choice((10, 1000))  # as good as always in the middle of a checkpoint, or never
        with told(seed=seed, kill=kill, delay_s=delay_s, pages=pages):
            with start_writer(nursery, folder, truth, 0, checkpoint_pages=pages) as writer:
                time.sleep(delay_s)
                truth.hear(0, writer.kill())
            check(folder, truth)
    assert truth.applied[0] > 12


@pytest.mark.parametrize("seed", range(10, 14))
def test_killed_writer_beside_another(nursery, folder, seed):
    """The other goes on: a lock goes with the process that holds it."""
    draw = random.Random(seed)
    truth = Truth(seed, 2)
    writers = {n: start_writer(nursery, folder, truth, n, checkpoint_pages=50) for n in range(2)}
    try:
        for kill in range(12):
            delay_s, victim = draw.uniform(0, LONGEST_S), draw.randrange(2)
            with told(seed=seed, kill=kill, delay_s=delay_s, victim=victim):
                time.sleep(delay_s)
                truth.hear(victim, writers.pop(victim).kill())
                check(folder, truth, writers)
                (other,) = writers
                before = max(truth.told[other], default=-1)
                while max(truth.told[other], default=-1) == before:
                    truth.hear(other, writers[other].said(1.0))
                writers[victim] = start_writer(nursery, folder, truth, victim, checkpoint_pages=50)
    finally:
        for writer in writers.values():
            writer.kill()


@pytest.mark.parametrize("seed", range(20, 24))
def test_killed_compaction(nursery, folder, seed):
    """A writer and a searcher go on; the next compaction clears up what this one left."""
    draw = random.Random(seed)
    truth = Truth(seed, 1)
    with (
        start_writer(nursery, folder, truth, 0) as writer,
        nursery.start("search_on", folder=folder, seed=seed, writers=1) as searcher,
    ):
        for kill in range(15):
            delay_s = draw.uniform(0, 2 * LONGEST_S)
            with told(seed=seed, kill=kill, delay_s=delay_s):
                with nursery.start("compact_on", folder=folder, start=kill) as compactor:
                    time.sleep(delay_s)
                    compactor.kill()
                check(folder, truth, {0: writer})
                wait_for_report(searcher)
        truth.hear(0, writer.kill())
    compact(folder)
    left = [path.name for path in (folder / SNAPSHOTS).iterdir()]
    assert sorted(left) == sorted(snapshot_names(folder))
    assert len(left) <= 2
    check(folder, truth)


@pytest.mark.parametrize("seed", range(30, 33))
def test_killed_searcher(nursery, folder, seed):
    """A writer and a compaction go on; nobody waits for a reader that is dead."""
    draw = random.Random(seed)
    truth = Truth(seed, 1)
    with (
        start_writer(nursery, folder, truth, 0, checkpoint_pages=50) as writer,
        nursery.start("compact_on", folder=folder, start=0) as compactor,
    ):
        for kill in range(12):
            delay_s = draw.uniform(0, LONGEST_S)
            with told(seed=seed, kill=kill, delay_s=delay_s):
                with nursery.start("search_on", folder=folder, seed=seed, writers=1) as searcher:
                    time.sleep(delay_s)
                    searcher.kill()
                check(folder, truth, {0: writer})
                wait_for_report(compactor)


@pytest.mark.parametrize("seed", range(40, 42))
def test_everybody_killed_in_any_order(nursery, folder, seed):
    """As when a machine's processes all go: two writers, a compaction and a searcher."""
    draw = random.Random(seed)
    truth = Truth(seed, 2)
    for turn in range(5):
        writers = {n: start_writer(nursery, folder, truth, n) for n in range(2)}
        others = [
            nursery.start("compact_on", folder=folder, start=turn),
            nursery.start("search_on", folder=folder, seed=seed, writers=2),
        ]
        victims = [*writers.items(), *enumerate(others, start=2)]
        draw.shuffle(victims)
        delays_s = [draw.uniform(0, 2 * LONGEST_S), *(draw.uniform(0, 0.02) for _ in range(3))]
        with told(seed=seed, turn=turn, delays_s=delays_s, order=[n for n, _ in victims]):
            for delay_s, (n, victim) in zip(delays_s, victims, strict=True):
                time.sleep(delay_s)
                lines = victim.kill()
                if n in writers:
                    truth.hear(n, lines)
            check(folder, truth)


@pytest.mark.parametrize("seed", range(60, 64))
def test_killed_in_the_middle_of_a_page(nursery, folder, seed):
    """In the log, or in a checkpoint's copying into the file: at any byte of either."""
    draw = random.Random(seed)
    truth = Truth(seed, 1)
    for kill in range(10):
        size = (folder / STORE_FILE).stat().st_size
        limit = draw.randrange(40_000, size + 200_000)
        pages = draw.choice((5, 1000))
        with told(seed=seed, kill=kill, limit=limit, size=size, pages=pages):
            writer = start_writer(
                nursery, folder, truth, 0, checkpoint_pages=pages, file_bytes=limit, fatal=True
            )
            status, lines = writer.end()
            assert status == -signal.SIGXFSZ
            truth.hear(0, lines)
            check(folder, truth)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kind)
def test_killed_in_the_middle_of_a_snapshot(nursery, tmp_path, plan):
    """At any byte of any of its files; the one before stays current."""
    draw = random.Random(plan.kind)
    folder = tmp_path / "index"
    build(folder, 65, 2000, plan)
    (current,) = snapshot_names(folder)
    sizes = [path.stat().st_size for path in (folder / SNAPSHOTS / current).iterdir()]
    for kill in range(8):
        limit = draw.randrange(min(40_000, max(sizes) // 2), max(sizes))
        with told(kill=kill, limit=limit, sizes=sizes):
            worker = nursery.start("compact_once", folder=folder, file_bytes=limit, fatal=True)
            status, _ = worker.end()
            assert status == -signal.SIGXFSZ
            with LiveIndex.open(folder) as live:
                assert live.manifest["snapshot"] == current
                assert len(live) == 2000
                for n in range(0, 2000, 100):
                    (found,) = live.search(vector(65, n)[None], 1)
                    assert found[0].document == json.dumps({"seed": 65, "n": n})
    following = compact(folder).name
    assert {path.name for path in (folder / SNAPSHOTS).iterdir()} == {current, following}


def test_killed_before_every_step_of_a_write(nursery, folder):
    """Of one with new items, new versions and deletes; its last step is the commit."""
    truth = Truth(50, 1)
    with Store.open(folder) as store:
        for number in range(5):
            truth.hear(0, [f"{number} {store.write(batch(50, 0, number))[-1]}"])
    check(folder, truth)
    for step in itertools.count(1):
        stepping = nursery.start(
            "step_write", folder=folder, step=step, seed=50, writer=0, number=5
        )
        with told(step=step):
            status, lines = stepping.end()
            truth.hear(0, lines)
            check(folder, truth)
            assert truth.applied[0] == (5 if status == 0 else 4)
        if status == 0:
            break
    assert step > len(batch(50, 0, 5))


def test_killed_before_every_step_of_a_compaction(nursery, folder):
    """Of one that has all to do: a snapshot, rows to purge, and an older snapshot to remove."""
    truth = Truth(51, 1)
    with Store.open(folder) as store:
        for step in itertools.count(1):
            for number in (2 * step - 2, 2 * step - 1):
                last = store.write(batch(51, 0, number))[-1]
                truth.hear(0, [f"{number} {last}"])
            stepping = nursery.start("step_compact", folder=folder, step=step, turn=step)
            with told(step=step):
                status, _ = stepping.end()
                check(folder, truth)
            if status == 0:
                break
    assert step > 30
    assert sorted(path.name for path in (folder / SNAPSHOTS).iterdir()) == sorted(
        snapshot_names(folder)
    )
    assert len(snapshot_names(folder)) == 2


@pytest.fixture
def old(tmp_path):
    build(tmp_path / "old", 60, 3)
    return tmp_path / "old"


def which(folder: Path) -> int:
    """The seed of an index, all of whose items are whole; 0 if there is none."""
    if not folder.exists():
        return 0
    with Store.open(folder) as store:
        store.verify()
        (seed,) = {json.loads(record.document)["seed"] for record in store.live_items()}
        assert len(store) == {60: 3, 61: 4}[seed]
    return seed


def test_killed_before_every_step_of_a_rebuild(nursery, old, tmp_path):
    """The old index is there or the new one, whole, in the place where servers look for it."""
    found = []
    for step in itertools.count(1):
        folder = tmp_path / f"{step}" / "index"
        folder.parent.mkdir()
        shutil.copytree(old, folder)
        stepping = nursery.start("step_rebuild", folder=folder, step=step, seed=61, count=4)
        with told(step=step):
            status, _ = stepping.end()
            found.append(which(folder))
        if status == 0:
            break
    assert step > 40
    assert 0 not in found, f"killed before step {found.index(0) + 1}, and no index is there"
    assert found == sorted(found)
    assert found[-1] == 61
