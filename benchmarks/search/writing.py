"""Writes through Triton, and what they do to those who search meanwhile."""

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

from benchmarks.common.measure import ratio
from benchmarks.search.data import Corpus, Data, Pace
from benchmarks.search.direct import Speed
from benchmarks.search.writer import BATCH, THREADS
from lensemble.index.maintenance.compactor import compaction_reason
from lensemble.index.storage.store import Store
from lensemble.settings import Settings
from lensemble_client import Client

_QUIET_TIMEOUT_S = 300.0
_SETTLE_S = 1.0
_WRITER_NICE = 10


@dataclass(frozen=True, slots=True)
class Writes:
    """Writing at full speed, and searching beside it.

    Attributes:
        corpus: What the index held at first.
        kind: Of the index.
        upserts_per_s: Acknowledged, while nobody searches.
        upserts_per_s_searching: Acknowledged, beside one searcher.
        batch: Items in one request.
        threads: That write.
        written: Items in all.
        snapshots: How many the server made meanwhile.
        idle: Single queries of one caller while nobody writes.
        writing: The same at full writing speed.
        p99_writing_over_idle: Median of the rounds' own ratios.
        spread: The least and the most of them.
        p50_writing_over_idle: The same of the medians.
    """

    corpus: str
    kind: str
    upserts_per_s: float
    upserts_per_s_searching: float
    batch: int
    threads: int
    written: int
    snapshots: int
    idle: Speed
    writing: Speed
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


class Writer:
    """`search_writer` in its own process.

    Args:
        process: It, once it is ready.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, seconds: float) -> None:
        """Lets it write for so long."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)

    def result(self) -> tuple[int, float]:
        """Waits until it is done; gives items acknowledged and seconds.

        Raises:
            RuntimeError: It died.
        """
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        if not said:
            raise RuntimeError("the writer ended; its error stands above")
        return int(said[0]), float(said[1])


@contextmanager
def writer(url: str, profile: str, corpus: Corpus) -> Iterator[Writer]:
    """Starts one.

    Args:
        url: Of the server.
        profile: Hash of the server's profile.
        corpus: What the index holds.
    """
    command = [sys.executable, "-m", "benchmarks.search.writer", url, profile, corpus.name]
    # It stands for clients on other machines: its own work must not keep the server's searches
    # waiting for a core that it would not have there.
    command = ["nice", "-n", str(_WRITER_NICE), *command]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the writer did not start; its error stands above")
            yield Writer(process)
        finally:
            process.terminate()


def measure_writes(
    data: Data, kind: str, folder: Path, url: str, profile: str, pace: Pace
) -> Writes:
    """Writes for a while; then searches while nobody writes and while somebody does, by turns.

    Args:
        data: What the index holds.
        kind: Of the index.
        folder: Of the index.
        url: Of a server that takes writes.
        profile: Hash of its profile.
        pace: How much to measure; writing alone takes four turns.
    """
    corpus, queries, window_s = data.corpus, data.truth.queries, pace.writing_s
    idle: list[list[float]] = []
    writing: list[list[float]] = []
    beside: list[tuple[int, float]] = []
    with Client(url) as client, writer(url, profile, corpus) as writes:
        before = _snapshot(client)
        snapshots = {before}
        writes.begin(0.2)  # connections, and the first pages of the log
        writes.result()
        writes.begin(4 * window_s)
        alone = writes.result()
        for _ in tqdm(range(pace.rounds), desc=f"{corpus.name}: search and write", unit="round"):
            wait_until_quiet(folder)
            snapshots.add(_snapshot(client))
            _latencies(client, queries, _SETTLE_S)  # takes the new snapshot up
            idle.append(_latencies(client, queries, window_s))
            writes.begin(window_s)
            writing.append(_latencies(client, queries, window_s))
            beside.append(writes.result())
            snapshots.add(_snapshot(client))
    p99 = _ratio(idle, writing, 99)
    return Writes(
        corpus.name,
        kind,
        round(alone[0] / alone[1], 1),
        round(statistics.median(count / seconds for count, seconds in beside), 1),
        BATCH,
        THREADS,
        alone[0] + sum(count for count, _ in beside),
        len(snapshots - {before}),
        Speed.of([one for window in idle for one in window], 1),
        Speed.of([one for window in writing for one in window], 1),
        p99["ratio"],
        p99["ratio_spread"],
        _ratio(idle, writing, 50)["ratio"],
    )


def wait_until_quiet(folder: Path) -> None:
    """Waits until no snapshot is due nor being made.

    Raises:
        TimeoutError: It takes too long.
    """
    rows = Settings(checkpoint=folder).compact_rows
    end = time.monotonic() + _QUIET_TIMEOUT_S
    with Store.open(folder) as store:
        while compaction_reason(store, rows):
            if time.monotonic() > end:
                raise TimeoutError(f"no new snapshot within {_QUIET_TIMEOUT_S:g} s")
            time.sleep(0.2)


def _ratio(
    idle: Sequence[Sequence[float]], writing: Sequence[Sequence[float]], percent: int
) -> dict[str, Any]:
    """Of the windows' percentiles, round by round."""
    slow, fast = (
        [float(np.percentile(window, percent)) for window in windows] for windows in (writing, idle)
    )
    return ratio("ratio", slow, fast)


def _latencies(client: Client, queries: NDArray[np.float32], seconds: float) -> list[float]:
    """Seconds of single queries of one caller, for some time."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.search_vector(queries[len(found) % len(queries)])
        found.append(time.perf_counter() - began)
    return found


def _snapshot(client: Client) -> str:
    return str((client.stats()["snapshot"] or {}).get("name", ""))
