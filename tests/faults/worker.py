"""Processes that write, compact and search until somebody kills them.

What a batch changes follows from the seed, the writer and the batch's number. So of a killed writer
a test needs to know only the number of the last batch that it was told of, and a searcher knows
without asking anybody whether id, document and score of what it found belong together.

    python -m tests.faults.worker DESCRIPTOR

is a process that has imported everything and forks: a worker is there in ten milliseconds. It takes
jobs on a socket, as JSON with the pipe that the worker reports to, and answers with a process id;
`{"wait": PID}` is answered with the exit status.
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
from lensemble.index.snapshots.snapshot import DamagedError, Snapshot
from lensemble.index.storage.changes import Change, Delete, Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import LensembleError
from tests.paths import CHECKPOINT

DIMENSION = 16
PROFILE = Profile.load(CHECKPOINT)
SLOTS, SHARED = 24, 8
"""How many ids each writer has, and how many all have in common."""
PLANS = (
    IndexPlan("exact"),
    # All lists are looked into: what is found is then what exact search finds.
    IndexPlan("ivf_sq8", parameters={"nlist": 4, "nprobe": 4}),
    IndexPlan("fp16"),
)

Report = Callable[[str], None]

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PIPE_BYTES = 4096
_CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod"}
"""Audit events of Python's that change a folder."""


def vector(*numbers: int) -> NDArray[np.float32]:
    """A unit vector that follows from numbers."""
    made = np.random.default_rng(numbers).standard_normal(DIMENSION).astype(np.float32)
    return made / np.linalg.norm(made)


def marker(seed: int, writer: int) -> NDArray[np.float32]:
    """The vector of the item that says which batch of a writer came last."""
    return vector(seed, writer)


@functools.lru_cache(512)
def batch(seed: int, writer: int, number: int) -> tuple[Change, ...]:
    """New items, new versions and deletes; the last change is the writer's mark."""
    draw = random.Random(f"{seed}/{writer}/{number}")
    changes: list[Change] = []
    for at in range(draw.randint(1, 16)):
        shared = draw.random() < 0.2
        id_ = f"all/{draw.randrange(SHARED)}" if shared else f"{writer}/{draw.randrange(SLOTS)}"
        said = {
            "writer": writer,
            "batch": number,
            "at": at,
            "text": "x" * draw.choice((0, 40, 4000)),
        }
        if draw.random() < 0.25:
            changes.append(Delete(id_))
        else:
            changes.append(Upsert(id_, vector(seed, writer, number, at), json.dumps(said)))
    said = {"writer": writer, "batch": number, "at": len(changes)}
    changes.append(Upsert(f"last/{writer}", marker(seed, writer), json.dumps(said)))
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
    """Writes batches, and reports each once it is acknowledged, with its last sequence number.

    Args:
        report: Waits while its pipe is full, so that nobody is far ahead of the test.
        folder: Of the index.
        seed: See `batch`.
        writer: See `batch`.
        start: Number of the first batch.
        stop: Number of the batch before which it dies; None goes on for ever.
        checkpoint_pages: In the log, that make SQLite copy them into the file.
        file_bytes: No file may grow beyond that; -1 sets no limit.
        fatal: Whether it dies then, in the middle of a write, or gets an error, as of a full disk.
    """
    with Store.open(Path(folder)) as store:
        store._connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
        if file_bytes >= 0:
            limit_files(file_bytes, fatal)
        for number in itertools.count(start) if stop is None else range(start, stop):
            try:
                results = store.write(batch(seed, writer, number))
            except LensembleError as error:
                report(f"refused {number} {error}")
                return
            report(f"{number} {results[-1]}")
        os.kill(os.getpid(), signal.SIGKILL)  # closing would empty the log into the file


def compact_on(report: Report, folder: str, start: int) -> None:
    """Makes one snapshot after the other, of every kind."""
    for turn in itertools.count(start):
        report(compact(Path(folder), PLANS[turn % len(PLANS)]).name)


def compact_once(report: Report, folder: str, file_bytes: int, fatal: bool = False) -> None:
    """Makes a snapshot where no file may grow beyond so many bytes."""
    limit_files(file_bytes, fatal)
    try:
        name = compact(Path(folder)).name
    except LensembleError as error:
        report(f"refused {error}")
        return
    try:
        Snapshot.load(Path(folder), name)
    except DamagedError as error:
        report(f"useless {error}")
    else:
        report(f"made {name}")


def limit_files(file_bytes: int, fatal: bool) -> None:
    """See `write`. The kernel writes up to the limit, and kills at the next byte."""
    if fatal:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def search_on(report: Report, folder: str, seed: int, writers: int) -> None:
    """Searches without end; every answer must be true, and never older than the one before."""
    seen = [-1] * writers
    with LiveIndex.open(Path(folder)) as live:
        for turn in itertools.count():
            queries = np.stack(
                [*(marker(seed, writer) for writer in range(writers)), vector(seed, 1, 2, 3, turn)]
            )
            answers = live.search(queries, 10)
            for query, found in zip(queries, answers, strict=True):
                check_matches(seed, query, found)
            for writer in range(writers):
                if (now := marked(answers[writer], writer)) < seen[writer]:
                    raise AssertionError(f"batch {now} of {writer} after {seen[writer]}")
                seen[writer] = now
            report(f"{turn} {seen}")


def check_matches(seed: int, query: NDArray[np.float32], found: list[IndexHit]) -> None:
    """What was found was written like that once: id, document and vector belong together."""
    if len({match.id for match in found}) != len(found):
        raise AssertionError(f"an item stands twice: {found}")
    for match in found:
        said = json.loads(match.document)
        change = batch(seed, said["writer"], said["batch"])[said["at"]]
        score = float(change.vector @ query)
        if (change.id, change.document) != (match.id, match.document):
            raise AssertionError(f"{match} was never written")
        if abs(score - match.score) > 1e-4:
            raise AssertionError(f"{match} has score {score}")


def marked(found: list[IndexHit], writer: int) -> int:
    """The last batch of a writer, from the answer to its mark's vector; -1 if it has none."""
    said = [json.loads(match.document) for match in found if match.id == f"last/{writer}"]
    return said[0]["batch"] if said else -1


def step_compact(report: Report, folder: str, step: int, turn: int) -> None:
    """Makes a snapshot, and dies before a step of it."""
    die_before(Path(folder), step)
    compact(Path(folder), PLANS[turn % len(PLANS)])


def step_write(report: Report, folder: str, step: int, seed: int, writer: int, number: int) -> None:
    """Writes a batch, and dies before a step of it."""
    die_before(Path(folder), step)
    with Store.open(Path(folder)) as store:
        report(f"{number} {store.write(batch(seed, writer, number))[-1]}")


def step_rebuild(report: Report, folder: str, step: int, seed: int, count: int) -> None:
    """Writes a whole index where one may stand, and dies before a step of it."""
    die_before(Path(folder), step)
    build(Path(folder), seed, count)


def build(folder: Path, seed: int, count: int, plan: IndexPlan = PLANS[0]) -> None:
    """An index whose items say which one it is."""
    write_index(
        folder,
        PROFILE,
        np.stack([vector(seed, n) for n in range(count)]),
        [f"{n}" for n in range(count)],
        [json.dumps({"seed": seed, "n": n}) for n in range(count)],
        plan=plan,
    )


def die_before(folder: Path, step: int) -> None:
    """Kills this process before its n-th SQL statement, change of a folder or opening of a file.

    Args:
        folder: Only files in it or beside it count.
        step: 1 is the first.
    """
    steps = itertools.count(1)
    near = str(folder.resolve().parent)

    def reached(_: object = None) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CHANGES or (event == "open" and str(arguments[0]).startswith(near)):
            reached()

    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*arguments, **options)
        made.set_trace_callback(reached)
        return made

    sqlite3.connect = connected
    sys.addaudithook(look)


JOBS = {
    job.__name__: job
    for job in (
        write,
        compact_on,
        compact_once,
        search_on,
        step_compact,
        step_write,
        step_rebuild,
    )
}


def main() -> None:
    """Forks workers until the socket is closed; then none is left."""
    faiss_module()
    children: set[int] = set()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 1)
            if not data:
                break
            said = json.loads(data)
            if "wait" in said:
                _, status = os.waitpid(said["wait"], 0)
                children.discard(said["wait"])
                channel.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            child = os.fork()
            if not child:
                channel.close()
                _work(said, descriptors[0])
            children.add(child)
            os.close(descriptors[0])
            channel.send(str(child).encode())
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _work(said: dict, pipe: int) -> None:
    """Does a job in a child of its own, and never returns."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        waits = said["job"] in ("write", "step_write")

        def report(line: str) -> None:
            with contextlib.suppress(*() if waits else (BlockingIOError,)):
                os.write(pipe, f"{line}\n".encode()[:_PIPE_BYTES])

        os.set_blocking(pipe, waits)
        JOBS[said["job"]](report, **said["arguments"])
        status = 0
    except BaseException:
        os.set_blocking(pipe, True)
        os.write(pipe, f"failed {traceback.format_exc()[-2000:]!r}\n".encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
