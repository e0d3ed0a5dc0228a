"""Starts and kills worker processes, and knows what an index must contain afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from lensemble.index.query import IndexHit
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.read_results import StoredItem
from lensemble.index.storage.store import Store
from tests.faults.worker import (
    OWN_IDS,
    SHARED_IDS,
    batch,
    check_hits,
    last_batch,
    marker_vector,
    vector,
)
from tests.paths import ROOT
from tests.waiting import DEADLINE_S, until

_PIPE_BYTES = 4096


class ForkServer:
    """A process that has imported everything, and forks workers."""

    def __init__(self) -> None:
        self._channel, child_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_channel:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", str(child_channel.fileno())],
                cwd=ROOT,
                pass_fds=[child_channel.fileno()],
                # One thread: a process with several threads must not fork.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def start(self, job: str, **arguments: object) -> Worker:
        """Starts one of `worker.JOBS`."""
        read_end, write_end = os.pipe()
        # A small pipe, so that a writer whose reports are not read soon waits.
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        message = json.dumps({"job": job, "arguments": arguments}, default=str)
        try:
            socket.send_fds(self._channel, [message.encode()], [write_end])
        finally:
            os.close(write_end)
        return Worker(self, int(self._channel.recv(64)), read_end)

    def wait(self, pid: int) -> int:
        """Waits until a worker ends; returns its exit status, or minus the signal's number."""
        self._channel.send(json.dumps({"wait": pid}).encode())
        return int(self._channel.recv(64))

    def close(self) -> None:
        """Ends the process and all its workers."""
        self._channel.close()
        self._process.wait(DEADLINE_S)


class Worker:
    """A process that works on an index; leaving the `with` block kills it."""

    def __init__(self, fork_server: ForkServer, pid: int, pipe: int) -> None:
        self._fork_server, self.pid, self._pipe = fork_server, pid, pipe
        self._buffer = b""
        self._closed = self.ended = False
        os.set_blocking(pipe, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.kill()

    def reports(self, wait_s: float = 0.0) -> list[str]:
        """The lines reported since the last call; waits up to `wait_s` seconds for one.

        Raises:
            AssertionError: The worker failed.
        """
        if not self.ended:
            self._read(wait_s)
        *lines, self._buffer = self._buffer.split(b"\n")
        reports = [line.decode() for line in lines]
        for report in reports:
            assert not report.startswith("failed"), report.replace("\\n", "\n")
        return reports

    def wait_for_reports(self, count: int) -> list[str]:
        """Waits for at least `count` further reports, and returns them."""
        reports: list[str] = []

        def enough() -> bool:
            if len(reports) < count:
                reports.extend(self.reports(1.0))
            return len(reports) >= count

        until(enough, f"{count} reports")
        return reports

    def wait_for_progress(self) -> None:
        """Waits for a report about something that the worker did after this call."""
        self.reports()
        self.wait_for_reports(1)

    def kill(self) -> list[str]:
        """Kills the worker and waits for its end; returns its last reports."""
        os.kill(self.pid, signal.SIGKILL)
        status, reports = self.wait()
        assert status == -signal.SIGKILL, f"the worker had ended by itself with status {status}"
        return reports

    def wait(self) -> tuple[int, list[str]]:
        """Waits until the worker ends; returns its exit status and its last reports."""

        def closed() -> bool:
            if not self._closed:
                self._read(1.0)
            return self._closed

        until(closed, "the end of the worker")
        status = self._fork_server.wait(self.pid)
        self.ended = True
        os.close(self._pipe)
        return status, self.reports()

    def _read(self, wait_s: float) -> None:
        """Reads what is in the pipe; waits up to `wait_s` seconds for something."""
        poll = select.poll()  # `select` does not accept descriptors above 1,023
        poll.register(self._pipe, select.POLLIN)
        poll.poll(wait_s * 1000)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._pipe, 1 << 16):
                self._buffer += data
            self._closed = True


class ExpectedIndex:
    """The contents that an index must have, computed from the seed and the reports of writers.

    Attributes:
        seed: see `worker.batch`.
        items: live items by id, with the sequence number of each.
        sequence: sequence number of the last change.
        acknowledged: for each writer the numbers of batches that were acknowledged, or found in the
            index, with their last sequence number.
        applied: for each writer the number of the last batch in `items`; -1 before the first.
    """

    def __init__(self, seed: int, writers: int) -> None:
        self.seed = seed
        self.items: dict[str, tuple[Upsert, int]] = {}
        self.sequence = 0
        self.acknowledged: list[dict[int, int]] = [{} for _ in range(writers)]
        self.applied = [-1] * writers

    def acknowledge(self, writer: int, reports: list[str]) -> None:
        """Takes the reports of a writer."""
        for report in reports:
            number, sequence = map(int, report.split())
            assert self.acknowledged[writer].setdefault(number, sequence) == sequence

    def last_acknowledged(self, writer: int) -> int:
        """Number of a writer's last acknowledged batch; -1 if there is none."""
        return max(self.acknowledged[writer], default=-1)

    def write(self, store: Store, writer: int, number: int) -> None:
        """Writes a batch from this process, and takes it as acknowledged."""
        sequence = store.write(batch(self.seed, writer, number))[-1]
        self.acknowledge(writer, [f"{number} {sequence}"])

    def advance(self, markers: Mapping[int, tuple[int, int]]) -> None:
        """Applies batches in the order in which they were committed.

        Args:
            markers: for each writer the number and the last sequence number of its last batch in
                the index.
        """
        batches: list[tuple[int, int, int]] = []
        for writer, (last, last_sequence) in markers.items():
            for number in range(self.applied[writer] + 1, last + 1):
                default = last_sequence if number == last else None
                sequence = self.acknowledged[writer].get(number, default)
                assert sequence is not None, f"batch {number} of {writer} was never acknowledged"
                batches.append((sequence, writer, number))
            if last in self.acknowledged[writer]:
                assert self.acknowledged[writer][last] == last_sequence
            self.applied[writer] = last
        for sequence, writer, number in sorted(batches):
            self.acknowledged[writer][number] = sequence
            self._apply(writer, number)
            # Sequence numbers have no gap and no duplicate, so nothing else was written, and no
            # batch was written in part.
            assert self.sequence == sequence, f"batch {number} of {writer} ends at {sequence}"

    def ids(self) -> list[str]:
        """All ids that writers use."""
        writers = range(len(self.acknowledged))
        own = [f"{writer}/{n}" for writer in writers for n in range(OWN_IDS)]
        markers = [f"last/{writer}" for writer in writers]
        return [*own, *(f"all/{n}" for n in range(SHARED_IDS)), *markers]

    def check_items(self, items: Mapping[str, StoredItem | None]) -> None:
        """Checks what `Store.get` returned for all ids."""
        for id_, item in items.items():
            expected = self.items.get(id_)
            assert (item is None) == (expected is None), f"{id_}: {item}, expected {expected}"
            if item is not None and expected is not None:
                change, sequence = expected
                assert (item.id, item.document) == (id_, change.document)
                assert (item.sequence, item.digest) == (sequence, change.digest)
                assert np.array_equal(item.vector, change.vector)

    def check_results(self, queries: NDArray[np.float32], results: list[list[IndexHit]]) -> None:
        """Checks that results equal those of exact search in `items`."""
        matrix = np.stack([change.vector for change, _ in self.items.values()])
        for query, hits in zip(queries, results, strict=True):
            check_hits(self.seed, query, hits)
            best = np.sort(matrix @ query)[::-1][:10]
            assert len(hits) == len(best)
            assert np.allclose([hit.score for hit in hits], best, atol=1e-4)
            for hit in hits:
                assert hit.document == self.items[hit.id][0].document

    def _apply(self, writer: int, number: int) -> None:
        for change in batch(self.seed, writer, number):
            if isinstance(change, Upsert):
                self.sequence += 1
                self.items[change.id] = (change, self.sequence)
            elif self.items.pop(change.id, None) is not None:
                self.sequence += 1


def check_index(
    folder: Path,
    expected: ExpectedIndex,
    writers: Mapping[int, Worker] | None = None,
    snapshot_lost: bool = False,
) -> None:
    """Reads all of an index, while others may go on writing, and compares it.

    Args:
        folder: folder of the index.
        expected: what the index must contain. Batches that were committed but not acknowledged are
            added to it.
        writers: writers that are alive, by number.
        snapshot_lost: whether the current snapshot may be missing.
    """
    writers = writers or {}
    for writer, worker in writers.items():
        expected.acknowledge(writer, worker.reports())
    acknowledged = [expected.last_acknowledged(n) for n in range(len(expected.acknowledged))]
    with Store.open(folder) as store:
        with store.reading():
            store.verify()
            items = dict(zip(expected.ids(), store.get(expected.ids()), strict=True))
            count, sequence = len(store), store.sequence
        markers = _markers(items)
        for writer, last in enumerate(acknowledged):
            committed = markers[writer][0] if writer in markers else -1
            assert committed >= last, (
                f"of writer {writer}, batch {last} was acknowledged and is lost"
            )
            if writer not in writers:
                # A dead writer may have committed one batch without reporting it.
                assert committed <= last + 1, f"writer {writer} has batches up to {committed}"
        # The last batch that was found need not be acknowledged yet.
        numbers = {writer: number - 1 for writer, (number, _) in markers.items()}
        _wait_for_acknowledgement(expected, writers, numbers)
        expected.advance(markers)
        expected.check_items(items)
        assert (count, sequence) == (len(expected.items), expected.sequence)
        if not snapshot_lost:
            _check_snapshot(store)
    _check_search(folder, expected, writers)


def _markers(items: Mapping[str, StoredItem | None]) -> dict[int, tuple[int, int]]:
    """By writer, the number and the sequence number of its last batch."""
    markers = {}
    for id_, item in items.items():
        if id_.startswith("last/") and item is not None:
            number = json.loads(item.document)["batch"]
            markers[int(id_.removeprefix("last/"))] = (number, item.sequence)
    return markers


def _check_snapshot(store: Store) -> None:
    """Checks that the current snapshot can be loaded, unless it was replaced meanwhile."""
    while name := store.snapshot:
        try:
            Snapshot.load(store.folder, name)
            return
        except DamagedSnapshotError:
            assert store.snapshot != name, f"snapshot {name} is current and cannot be loaded"


def _check_search(folder: Path, expected: ExpectedIndex, writers: Mapping[int, Worker]) -> None:
    """Checks that a new searcher finds what exact search finds, at the moment of the search."""
    count = len(expected.acknowledged)
    queries = np.stack(
        [
            *(marker_vector(expected.seed, writer) for writer in range(count)),
            *(vector(expected.seed, 4, 4, 4, n) for n in range(4)),
        ]
    )
    with LiveIndex.open(folder) as live:
        results = live.search(queries, 10)
        sequence, size = live.manifest["sequence"], len(live)
    numbers = {writer: last_batch(results[writer], writer) for writer in range(count)}
    _wait_for_acknowledgement(expected, writers, numbers)
    expected.advance(
        {
            writer: (number, expected.acknowledged[writer][number])
            for writer, number in numbers.items()
            if number > expected.applied[writer]
        }
    )
    assert list(numbers.values()) == expected.applied
    assert (size, sequence) == (len(expected.items), expected.sequence)
    if expected.items:
        expected.check_results(queries, results)


def _wait_for_acknowledgement(
    expected: ExpectedIndex, writers: Mapping[int, Worker], numbers: Mapping[int, int]
) -> None:
    """Waits until the living writers have reported the given batches."""

    def acknowledged(writer: int, worker: Worker) -> bool:
        number = numbers.get(writer, -1)
        if expected.last_acknowledged(writer) < number:
            expected.acknowledge(writer, worker.reports(1.0))
        return expected.last_acknowledged(writer) >= number

    for writer, worker in writers.items():
        until(functools.partial(acknowledged, writer, worker), f"the reports of writer {writer}")


def seeds(first: int, count: int) -> pytest.MarkDecorator:
    """Runs a test with `count` seeds from `first` on; all but the first are marked as slow."""
    others = range(first + 1, first + count)
    return pytest.mark.parametrize(
        "seed", [first, *(pytest.param(seed, marks=pytest.mark.slow) for seed in others)]
    )


@contextlib.contextmanager
def note_on_failure(**circumstances: Any) -> Iterator[None]:
    """Adds the circumstances to an exception as a note."""
    try:
        yield
    except BaseException as error:
        error.add_note(", ".join(f"{name} = {value}" for name, value in circumstances.items()))
        raise
