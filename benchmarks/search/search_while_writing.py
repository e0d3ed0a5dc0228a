"""Writes through Triton, and the latency of searches at the same time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.common.timing import ratio
from benchmarks.search.corpora import CorpusWithQueries, MeasurementBudget, VectorCorpus
from benchmarks.search.in_process import CallSpeed
from benchmarks.search.writer_process import BATCH, THREADS
from lensemble.index.maintenance.compactor import compaction_reason
from lensemble.index.storage.store import Store
from lensemble.settings import Settings
from lensemble_client import Client

_QUIET_TIMEOUT_S = 300.0
# Seconds of searches that are not measured, during which the server loads a new snapshot.
_SETTLE_S = 1.0
_WRITER_NICE = 10


@dataclass(frozen=True, slots=True)
class WriteMeasurement:
    """Writing at full speed, with and without searches at the same time.

    Attributes:
        corpus: Name of the corpus that the index held at first.
        kind: Kind of the index.
        upserts_per_s: Acknowledged items per second without searches.
        upserts_per_s_searching: Acknowledged items per second with one searcher.
        batch: Number of items in one request.
        threads: Number of writing threads.
        written: Number of items written.
        snapshots: Number of snapshots that the server made during the measurement.
        idle: Speed of single queries of one caller without writes.
        writing: Speed of single queries of one caller at full writing speed.
        p99_writing_over_idle: Ratio of the 99th percentiles, median over the rounds.
        spread: Smallest and largest ratio of the 99th percentiles in a round.
        p50_writing_over_idle: Ratio of the medians, median over the rounds.
    """

    corpus: str
    kind: str
    upserts_per_s: float
    upserts_per_s_searching: float
    batch: int
    threads: int
    written: int
    snapshots: int
    idle: CallSpeed
    writing: CallSpeed
    p99_writing_over_idle: float
    spread: list[float]
    p50_writing_over_idle: float

    HEAD = (
        f"{'corpus':10} {'kind':8} {'upserts/s':>10} {'beside search':>13} {'snapshots':>9} "
        f"{'idle p50 ms':>12} {'p99 ms':>8} {'writing p50 ms':>14} {'p99 ms':>8} {'p99 ratio':>9} "
        f"{'spread':>12}"
    )

    def __str__(self) -> str:
        least, most = self.spread
        return (
            f"{self.corpus:10} {self.kind:8} {self.upserts_per_s:10.0f} "
            f"{self.upserts_per_s_searching:13.0f} {self.snapshots:9} {self.idle.p50_ms:12.2f} "
            f"{self.idle.p99_ms:8.2f} {self.writing.p50_ms:14.2f} {self.writing.p99_ms:8.2f} "
            f"{self.p99_writing_over_idle:9.2f} {f'{least:.2f}-{most:.2f}':>12}"
        )


class WriterProcess:
    """A running `writer_process`.

    Args:
        process: The process, once it is ready.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, seconds: float) -> None:
        """Makes it write for some seconds; returns at once."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)

    def result(self) -> tuple[int, float]:
        """Waits until it has written.

        Returns:
            Number of acknowledged items, and seconds that it took.

        Raises:
            RuntimeError: The process ended.
        """
        assert self._process.stdout is not None
        fields = self._process.stdout.readline().split()
        if not fields:
            raise RuntimeError("the writer ended; its error is printed above")
        return int(fields[0]), float(fields[1])


@contextmanager
def running_writer(url: str, profile: str, corpus: VectorCorpus) -> Iterator[WriterProcess]:
    """Starts a writer, and ends it when the block is left.

    Args:
        url: URL of the server.
        profile: Hash of the server's profile.
        corpus: Corpus in the index.
    """
    command = [sys.executable, "-m", "benchmarks.search.writer_process", url, profile, corpus.name]
    # The writer stands for clients on other machines, where it would not use this machine's cores:
    # a low priority keeps its own work from delaying the server's searches.
    command = ["nice", "-n", str(_WRITER_NICE), *command]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the writer did not start; its error is printed above")
            yield WriterProcess(process)
        finally:
            process.terminate()


def measure_writes(
    data: CorpusWithQueries,
    kind: str,
    settings: Settings,
    url: str,
    profile: str,
    budget: MeasurementBudget,
) -> WriteMeasurement:
    """Writes for a while; then searches without and with writes, by turns.

    Args:
        data: Corpus in the index.
        kind: Kind of the index.
        settings: Settings of the server, which accepts writes.
        url: URL of the server.
        profile: Hash of the server's profile.
        budget: How much to measure; writing without searches takes four times `writing_s`.
    """
    assert settings.index is not None
    corpus, queries, window_s = data.corpus, data.truth.queries, budget.writing_s
    idle: list[list[float]] = []
    writing: list[list[float]] = []
    while_searching: list[tuple[int, float]] = []
    with Client(url) as client, running_writer(url, profile, corpus) as writer:
        first_snapshot = _snapshot(client)
        snapshots = {first_snapshot}
        writer.begin(0.2)  # not measured: opens connections and the first pages of SQLite's log
        writer.result()
        writer.begin(4 * window_s)
        count_alone, seconds_alone = writer.result()
        for _ in tqdm(range(budget.rounds), desc=f"{corpus.name}: search and write", unit="round"):
            wait_until_quiet(settings.index, settings.compact_rows)
            snapshots.add(_snapshot(client))
            _latencies(client, queries, _SETTLE_S)
            idle.append(_latencies(client, queries, window_s))
            writer.begin(window_s)
            writing.append(_latencies(client, queries, window_s))
            while_searching.append(writer.result())
            snapshots.add(_snapshot(client))
    p99 = _ratio(idle, writing, 99)
    return WriteMeasurement(
        corpus.name,
        kind,
        round(count_alone / seconds_alone, 1),
        round(statistics.median(count / seconds for count, seconds in while_searching), 1),
        BATCH,
        THREADS,
        count_alone + sum(count for count, _ in while_searching),
        len(snapshots - {first_snapshot}),
        CallSpeed.of([seconds for window in idle for seconds in window], 1),
        CallSpeed.of([seconds for window in writing for seconds in window], 1),
        p99["ratio"],
        p99["ratio_spread"],
        _ratio(idle, writing, 50)["ratio"],
    )


def wait_until_quiet(folder: Path, compact_rows: int) -> None:
    """Waits until no snapshot is due or being made.

    Args:
        folder: Folder of the index.
        compact_rows: The server's setting: changes after which a snapshot is due.

    Raises:
        TimeoutError: A snapshot is still due after `_QUIET_TIMEOUT_S`.
    """
    end = time.monotonic() + _QUIET_TIMEOUT_S
    with Store.open(folder) as store:
        while compaction_reason(store, compact_rows):
            if time.monotonic() > end:
                raise TimeoutError(f"no new snapshot within {_QUIET_TIMEOUT_S:g} s")
            time.sleep(0.2)


def _ratio(
    idle: Sequence[Sequence[float]], writing: Sequence[Sequence[float]], percent: int
) -> dict[str, Any]:
    """Returns the ratio of the windows' percentiles, round by round."""
    while_writing, while_idle = (
        [float(np.percentile(window, percent)) for window in windows] for windows in (writing, idle)
    )
    return ratio("ratio", while_writing, while_idle)


def _latencies(client: Client, queries: NDArray[np.float32], seconds: float) -> list[float]:
    """Returns the seconds of single queries of one caller, measured for some seconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.search_vector(queries[len(latencies) % len(queries)])
        latencies.append(time.perf_counter() - began)
    return latencies


def _snapshot(client: Client) -> str:
    return str((client.stats()["snapshot"] or {}).get("name", ""))
