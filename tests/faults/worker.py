"""Processes that write, compact and search until they are killed.

The contents of a batch follow from the seed, the writer and the number of the batch. So a test that
has killed a writer needs to know only the number of its last acknowledged batch, and a searcher can
check by itself whether id, document and score of a hit belong together.

    python -m tests.faults.worker DESCRIPTOR

is a fork server: it has imported everything, so a worker starts within ten milliseconds. It reads
jobs from a socket, as JSON together with the pipe for the worker's reports, and answers with the
process id. `{"wait": PID}` is answered with the exit status.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.maintenance.compact import compact
from lensemble.index.maintenance.create import write_index
from lensemble.index.query import IndexHit
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.faiss_index import faiss_module
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.storage.changes import Change, Delete, Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import LensembleError
from tests.paths import CHECKPOINT

DIMENSION = 16
PROFILE = Profile.load(CHECKPOINT)
OWN_IDS, SHARED_IDS = 24, 8  # number of ids of each writer, and of ids that all writers share
PLANS = (
    IndexPlan("exact"),
    # It searches all lists, so it finds what exact search finds.
    IndexPlan("ivf_sq8", parameters={"nlist": 4, "nprobe": 4}),
    IndexPlan("fp16"),
)

Report = Callable[[str], None]

_PR_SET_PDEATHSIG = 1  # constant of prctl(2)
_PIPE_BYTES = 4096
# Python's audit events for changes of a folder.
_FOLDER_EVENTS = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod"}


def vector(*numbers: int) -> NDArray[np.float32]:
    """A unit vector (16,) that follows from the numbers."""
    drawn = np.random.default_rng(numbers).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def marker_vector(seed: int, writer: int) -> NDArray[np.float32]:
    """The vector of the item whose document has the number of a writer's last batch."""
    return vector(seed, writer)


@functools.lru_cache(512)
def batch(seed: int, writer: int, number: int) -> tuple[Change, ...]:
    """New items, new versions and deletes; the last change is the writer's marker item."""
    draw = random.Random(f"{seed}/{writer}/{number}")
    changes: list[Change] = []
    for position in range(draw.randint(1, 16)):
        shared = draw.random() < 0.2
        id_ = (
            f"all/{draw.randrange(SHARED_IDS)}" if shared else f"{writer}/{draw.randrange(OWN_IDS)}"
        )
        document = {
            "writer": writer,
            "batch": number,
            "position": position,
            "text": "x" * draw.choice((0, 40, 4000)),
        }
        if draw.random() < 0.25:
            changes.append(Delete(id_))
        else:
            changes.append(
                Upsert(id_, vector(seed, writer, number, position), json.dumps(document))
            )
    marker = {"writer": writer, "batch": number, "position": len(changes)}
    changes.append(Upsert(f"last/{writer}", marker_vector(seed, writer), json.dumps(marker)))
    return tuple(changes)


def write(
    report: Report,
    folder: str,
    seed: int,
    writer: int,
    start: int,
    stop: int | None = None,
    checkpoint_pages: int = 1000,
    file_bytes: int = -1,
    fatal: bool = False,
) -> None:
    """Writes batches; reports the number and last sequence number of each acknowledged one.

    Args:
        report: function that blocks while its pipe is full, so the writer is never far ahead of the
            test.
        folder: folder of the index.
        seed: see `batch`.
        writer: see `batch`.
        start: number of the first batch.
        stop: number of the batch before which the process kills itself; None for no end.
        checkpoint_pages: number of pages in the WAL file after which SQLite copies them into the
            database file.
        file_bytes: size limit for every file; -1 for none.
        fatal: whether the limit kills the process in the middle of a write, instead of failing the
            write as a full disk does.
    """
    with Store.open(Path(folder)) as store:
        store._connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
        if file_bytes >= 0:
            limit_file_size(file_bytes, fatal)
        for number in itertools.count(start) if stop is None else range(start, stop):
            try:
                results = store.write(batch(seed, writer, number))
            except LensembleError as error:
                report(f"refused {number} {error}")
                return
            report(f"{number} {results[-1]}")
        os.kill(os.getpid(), signal.SIGKILL)  # closing would copy the WAL file into the database


def compact_repeatedly(report: Report, folder: str, start: int) -> None:
    """Makes one snapshot after the other, with alternating kinds; reports their names."""
    for turn in itertools.count(start):
        report(compact(Path(folder), PLANS[turn % len(PLANS)]).name)


def compact_once(report: Report, folder: str, file_bytes: int, fatal: bool = False) -> None:
    """Makes a snapshot with a size limit for every file (see `write`); reports the outcome."""
    limit_file_size(file_bytes, fatal)
    try:
        name = compact(Path(folder)).name
    except LensembleError as error:
        report(f"refused {error}")
        return
    try:
        Snapshot.load(Path(folder), name)
    except DamagedSnapshotError as error:
        report(f"damaged {error}")
    else:
        report(f"made {name}")


def search_repeatedly(report: Report, folder: str, seed: int, writers: int) -> None:
    """Searches without end; every result must be right, and never older than the one before."""
    newest = [-1] * writers
    with LiveIndex.open(Path(folder)) as live:
        for turn in itertools.count():
            queries = np.stack(
                [
                    *(marker_vector(seed, writer) for writer in range(writers)),
                    vector(seed, 1, 2, 3, turn),
                ]
            )
            results = live.search(queries, 10)
            for query, hits in zip(queries, results, strict=True):
                check_hits(seed, query, hits)
            for writer in range(writers):
                if (number := last_batch(results[writer], writer)) < newest[writer]:
                    raise AssertionError(
                        f"batch {number} of writer {writer} was found after batch {newest[writer]}"
                    )
                newest[writer] = number
            report(f"{turn} {newest}")


def step_write(report: Report, folder: str, step: int, seed: int, writer: int, number: int) -> None:
    """Writes a batch, and is killed before a step of it."""
    die_before_step(Path(folder), step)
    with Store.open(Path(folder)) as store:
        report(f"{number} {store.write(batch(seed, writer, number))[-1]}")


def step_compact(report: Report, folder: str, step: int, turn: int) -> None:
    """Makes a snapshot, and is killed before a step of it."""
    die_before_step(Path(folder), step)
    compact(Path(folder), PLANS[turn % len(PLANS)])


def step_rebuild(report: Report, folder: str, step: int, seed: int, count: int) -> None:
    """Writes a whole index, which may replace another one, and is killed before a step of it."""
    die_before_step(Path(folder), step)
    build(Path(folder), seed, count)


def build(folder: Path, seed: int, count: int, plan: IndexPlan = PLANS[0]) -> None:
    """Writes an index whose documents contain the seed."""
    write_index(
        folder,
        PROFILE,
        np.stack([vector(seed, n) for n in range(count)]),
        [f"{n}" for n in range(count)],
        [json.dumps({"seed": seed, "n": n}) for n in range(count)],
        plan=plan,
    )


def check_hits(seed: int, query: NDArray[np.float32], hits: list[IndexHit]) -> None:
    """Checks that each hit is an item that was written: id, document and vector belong together."""
    if len({hit.id for hit in hits}) != len(hits):
        raise AssertionError(f"an item occurs twice: {hits}")
    for hit in hits:
        document = json.loads(hit.document)
        change = batch(seed, document["writer"], document["batch"])[document["position"]]
        score = float(change.vector @ query)
        if (change.id, change.document) != (hit.id, hit.document):
            raise AssertionError(f"{hit} was never written")
        if abs(score - hit.score) > 1e-4:
            raise AssertionError(f"{hit} has the wrong score; expected {score}")


def last_batch(hits: list[IndexHit], writer: int) -> int:
    """Number of a writer's last batch, from the hits for its marker vector; -1 without a marker."""
    documents = [json.loads(hit.document) for hit in hits if hit.id == f"last/{writer}"]
    return documents[0]["batch"] if documents else -1


def limit_file_size(file_bytes: int, fatal: bool) -> None:
    """See `write`. The kernel writes up to the limit, and then fails or kills."""
    if fatal:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def die_before_step(folder: Path, step: int) -> None:
    """Kills this process before a step: a SQL statement, a change of a folder, or opening a file.

    Args:
        folder: folder of the index; only files in it or beside it count.
        step: number of the step; 1 is the first.
    """
    steps = itertools.count(1)
    parent = str(folder.resolve().parent)

    def count_step(_: object = None) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in _FOLDER_EVENTS or (event == "open" and str(arguments[0]).startswith(parent)):
            count_step()

    connect = sqlite3.connect

    def connect_with_trace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count_step)
        return connection

    sqlite3.connect = connect_with_trace
    sys.addaudithook(audit)


JOBS = {
    job.__name__: job
    for job in (
        write,
        compact_repeatedly,
        compact_once,
        search_repeatedly,
        step_write,
        step_compact,
        step_rebuild,
    )
}


def main() -> None:
    """Forks workers until the socket is closed; then kills all that are left."""
    faiss_module()
    children: set[int] = set()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 1)
            if not data:
                break
            message = json.loads(data)
            if "wait" in message:
                _, status = os.waitpid(message["wait"], 0)
                children.discard(message["wait"])
                channel.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            child = os.fork()
            if not child:
                channel.close()
                _run_job(message, descriptors[0])
            children.add(child)
            os.close(descriptors[0])
            channel.send(str(child).encode())
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _run_job(message: dict, pipe: int) -> None:
    """Runs a job in a forked process, and never returns."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Writers wait until the test reads; others drop reports that the full pipe does not take.
        blocking = message["job"] in ("write", "step_write")

        def report(line: str) -> None:
            with contextlib.suppress(*() if blocking else (BlockingIOError,)):
                os.write(pipe, f"{line}\n".encode()[:_PIPE_BYTES])

        os.set_blocking(pipe, blocking)
        JOBS[message["job"]](report, **message["arguments"])
        status = 0
    except BaseException:
        os.set_blocking(pipe, True)
        os.write(pipe, f"failed {traceback.format_exc()[-2000:]!r}\n".encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
