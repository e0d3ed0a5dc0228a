"""Starts workers, kills them, and knows what an index must hold after that."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index.query import IndexHit
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.snapshot import DamagedError, Snapshot
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.read_results import StoredItem
from lensemble.index.storage.store import Store
from tests.faults.worker import SHARED, SLOTS, batch, check_matches, marked, marker, vector
from tests.paths import ROOT

PATIENCE_S = 60.0
"""For what takes milliseconds, unless the machine is very busy."""

_PIPE_BYTES = 4096


class Nursery:
    """A process that has imported everything, and forks workers."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                # One thread: a process with several must not fork.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def start(self, job: str, **arguments: object) -> Worker:
        """Starts one of `worker.JOBS`."""
        ours, theirs = os.pipe()
        # Who reports and is not heard waits, and does not run away.
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        said = json.dumps({"job": job, "arguments": arguments}, default=str)
        try:
            socket.send_fds(self._channel, [said.encode()], [theirs])
        finally:
            os.close(theirs)
        return Worker(self, int(self._channel.recv(64)), ours)

    def wait(self, pid: int) -> int:
        """The exit status of a worker, once it has ended; minus the signal that ended it."""
        self._channel.send(json.dumps({"wait": pid}).encode())
        return int(self._channel.recv(64))

    def close(self) -> None:
        """Ends all workers."""
        self._channel.close()
        self._process.wait(PATIENCE_S)


class Worker:
    """A process that works on an index."""

    def __init__(self, nursery: Nursery, pid: int, pipe: int) -> None:
        self._nursery, self.pid, self._pipe = nursery, pid, pipe
        self._rest = b""
        self._closed = self.ended = False
        os.set_blocking(pipe, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.kill()

    def said(self, wait_s: float = 0.0) -> list[str]:
        """What it reported since the last time; waits for a line, but not for ever.

        Raises:
            AssertionError: It failed.
        """
        if not self.ended:
            self._read(wait_s)
        *whole, self._rest = self._rest.split(b"\n")
        lines = [line.decode() for line in whole]
        for line in lines:
            assert not line.startswith("failed"), line.replace("\\n", "\n")
        return lines

    def kill(self) -> list[str]:
        """Kills it, waits until it is gone, and returns the last that it reported."""
        os.kill(self.pid, signal.SIGKILL)
        status, lines = self.end()
        assert status == -signal.SIGKILL, f"it had ended by itself with status {status}"
        return lines

    def end(self) -> tuple[int, list[str]]:
        """Waits until it ends; its exit status, and the last that it reported."""
        until = time.monotonic() + PATIENCE_S
        while not self._closed:
            self._read(1.0)
            assert time.monotonic() < until, "it does not end"
        status = self._nursery.wait(self.pid)
        self.ended = True
        os.close(self._pipe)
        return status, self.said()

    def _read(self, wait_s: float) -> None:
        """Takes what is in the pipe."""
        waiting = select.poll()  # `select` takes no descriptor above 1,023
        waiting.register(self._pipe, select.POLLIN)
        waiting.poll(wait_s * 1000)
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._pipe, 1 << 16):
                self._rest += more
            self._closed = True


class Truth:
    """What an index must hold, from the seed and from what writers were told.

    Attributes:
        seed: See `worker.batch`.
        items: Live items by id.
        sequence: Of the last change.
        told: Per writer the numbers of batches that were acknowledged, or found in the index, with
            their last sequence number.
        applied: Per writer the number of the last batch in `items`; -1 before the first.
    """

    def __init__(self, seed: int, writers: int) -> None:
        self.seed = seed
        self.items: dict[str, tuple[Upsert, int]] = {}
        self.sequence = 0
        self.told: list[dict[int, int]] = [{} for _ in range(writers)]
        self.applied = [-1] * writers

    def hear(self, writer: int, lines: list[str]) -> None:
        """Takes a writer's reports."""
        for line in lines:
            number, last = map(int, line.split())
            assert self.told[writer].setdefault(number, last) == last

    def advance(self, marks: Mapping[int, tuple[int, int]]) -> None:
        """Applies batches, in the order in which they were committed.

        Args:
            marks: By writer, the number and the last sequence of its last batch in the index.
        """
        batches: list[tuple[int, int, int]] = []
        for writer, (last, sequence) in marks.items():
            for number in range(self.applied[writer] + 1, last + 1):
                at = self.told[writer].get(number, sequence if number == last else None)
                assert at is not None, f"batch {number} of {writer} was never acknowledged"
                batches.append((at, writer, number))
            if last in self.told[writer]:
                assert self.told[writer][last] == sequence
            self.applied[writer] = last
        for at, writer, number in sorted(batches):
            self.told[writer][number] = at
            self._apply(writer, number)
            # No number left out, none twice: nothing else was written, and none of this in part.
            assert self.sequence == at, f"batch {number} of {writer} ends at {at}"

    def _apply(self, writer: int, number: int) -> None:
        for change in batch(self.seed, writer, number):
            if isinstance(change, Upsert):
                self.sequence += 1
                self.items[change.id] = (change, self.sequence)
            elif self.items.pop(change.id, None) is not None:
                self.sequence += 1

    def ids(self) -> list[str]:
        """All ids that there may ever be."""
        own = [f"{writer}/{slot}" for writer in range(len(self.told)) for slot in range(SLOTS)]
        marks = [f"last/{writer}" for writer in range(len(self.told))]
        return [*own, *(f"all/{slot}" for slot in range(SHARED)), *marks]

    def check_records(self, records: Mapping[str, StoredItem | None]) -> None:
        """Whether what `Store.get` gave for all ids is what must be there."""
        for id_, record in records.items():
            expected = self.items.get(id_)
            assert (record is None) == (expected is None), f"{id_}: {record}, not {expected}"
            if record is not None and expected is not None:
                change, sequence = expected
                assert (record.id, record.document) == (id_, change.document)
                assert (record.sequence, record.digest) == (sequence, change.digest)
                assert np.array_equal(record.vector, change.vector)

    def check_answers(self, queries: NDArray[np.float32], answers: list[list[IndexHit]]) -> None:
        """Whether answers are those of exact search in what must be there."""
        matrix = np.stack([change.vector for change, _ in self.items.values()])
        for query, found in zip(queries, answers, strict=True):
            check_matches(self.seed, query, found)
            best = np.sort(matrix @ query)[::-1][: max(len(found), 10)]
            assert len(found) == min(10, len(best))
            assert np.allclose([match.score for match in found], best[:10], atol=1e-4)
            for match in found:
                assert match.document == self.items[match.id][0].document


def check(
    folder: Path,
    truth: Truth,
    writers: Mapping[int, Worker] | None = None,
    snapshot_lost: bool = False,
) -> None:
    """Reads all of an index, which others may go on with, and compares it with the truth.

    Args:
        folder: Of the index.
        truth: Of the index; batches that were committed, but not acknowledged, are added to it.
        writers: Those that are alive.
        snapshot_lost: Whether the current snapshot need not be there.
    """
    writers = writers or {}
    _hear(truth, writers)
    acknowledged = [max(told, default=-1) for told in truth.told]
    with Store.open(folder) as store:
        with store.reading():
            store.verify()
            records = dict(zip(truth.ids(), store.get(truth.ids()), strict=True))
            count, sequence = len(store), store.sequence
        marks = _marks(records)
        for writer, known in enumerate(acknowledged):
            there = marks[writer][0] if writer in marks else -1
            assert there >= known, f"batch {known} of {writer} was acknowledged; {there} is there"
            if writer not in writers:
                assert there <= known + 1, f"batches up to {there} of {writer}"
        _wait(truth, writers, {writer: number for writer, (number, _) in marks.items()})
        truth.advance(marks)
        truth.check_records(records)
        assert (count, sequence) == (len(truth.items), truth.sequence)
        if not snapshot_lost:
            _check_snapshot(store)
    _check_search(folder, truth, writers)


def _marks(records: Mapping[str, StoredItem | None]) -> dict[int, tuple[int, int]]:
    """By writer, the number and the sequence of its last batch."""
    found = {}
    for id_, record in records.items():
        if id_.startswith("last/") and record is not None:
            found[int(id_.removeprefix("last/"))] = (
                json.loads(record.document)["batch"],
                record.sequence,
            )
    return found


def _check_snapshot(store: Store) -> None:
    """The snapshot that is named current can be loaded; unless it was replaced meanwhile."""
    while name := store.snapshot:
        try:
            Snapshot.load(store.folder, name)
            return
        except DamagedError:
            assert store.snapshot != name, f"snapshot {name} is current and cannot be loaded"


def _check_search(folder: Path, truth: Truth, writers: Mapping[int, Worker]) -> None:
    """A new searcher agrees with exact search, at the moment at which it searches."""
    count = len(truth.told)
    queries = np.stack(
        [
            *(marker(truth.seed, writer) for writer in range(count)),
            *(vector(truth.seed, 4, 4, 4, n) for n in range(4)),
        ]
    )
    with LiveIndex.open(folder) as live:
        answers = live.search(queries, 10)
        sequence, size = live.manifest["sequence"], len(live)
    numbers = {writer: marked(answers[writer], writer) for writer in range(count)}
    _wait(truth, writers, numbers, last_too=True)
    truth.advance(
        {
            writer: (number, truth.told[writer][number])
            for writer, number in numbers.items()
            if number > truth.applied[writer]
        }
    )
    assert [max(number, -1) for number in numbers.values()] == truth.applied
    assert (size, sequence) == (len(truth.items), truth.sequence)
    if truth.items:
        truth.check_answers(queries, answers)


def _hear(truth: Truth, writers: Mapping[int, Worker], wait_s: float = 0.0) -> None:
    for writer, worker in writers.items():
        truth.hear(writer, worker.said(wait_s))


def _wait(
    truth: Truth,
    writers: Mapping[int, Worker],
    numbers: Mapping[int, int],
    last_too: bool = False,
) -> None:
    """Waits until living writers reported what is in the index already."""
    until = time.monotonic() + PATIENCE_S
    for writer, worker in writers.items():
        number = numbers.get(writer, -1) - (not last_too)
        while max(truth.told[writer], default=-1) < number:
            assert time.monotonic() < until, f"writer {writer} does not go on"
            truth.hear(writer, worker.said(1.0))


def wait_for_report(worker: Worker) -> None:
    """Waits until a worker reports something that it did not report before: it goes on."""
    until = time.monotonic() + PATIENCE_S
    worker.said()
    while not worker.said(1.0):
        assert time.monotonic() < until, "it does not go on"


@contextlib.contextmanager
def told(**circumstances: Any) -> Iterator[None]:
    """Says with a failure where it happened."""
    try:
        yield
    except BaseException as error:
        error.add_note(", ".join(f"{name} = {value}" for name, value in circumstances.items()))
        raise
