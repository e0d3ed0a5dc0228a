"""The `faiss` model of a real Triton, through gRPC, against FAISS called inside this process.

Both sides search the same vectors through FAISS's same index: the one that was trained here is put
into the index folder as its snapshot.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.measure import in_turn, ratio
from benchmarks.search.data import Data, Pace
from benchmarks.search.direct import BATCHES, Built, Speed, batches, effort
from lensemble.index.maintenance.create import write_index
from lensemble.index.snapshots.ground_truth import K
from lensemble.index.snapshots.kinds import KINDS
from lensemble.index.snapshots.manifest import read_manifest
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.snapshots.tune import TunedIndex
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.read_results import StoreContents
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_client import Client
from lensemble_contract import contract
from lensemble_contract.items import Rows

CALLERS = 3
_LEAST_CALLS = 2 * CALLERS
_MOST_CALLS = 5000


@dataclass(frozen=True, slots=True)
class Served:
    """One kind of index, served and in this process, by turns.

    Attributes:
        corpus: Its name.
        kind: A name in `KINDS`.
        parameters: All of them.
        batch: Queries in one request, or in one call of FAISS.
        callers: Requests under way at a time, for `queries_per_s`.
        queries_per_s: Of the server, median of the rounds.
        alone: The server asked by one caller.
        in_process: FAISS called directly, by one thread.
        served_over_inprocess: Median of the rounds' own ratios of queries per second.
        spread: The least and the most of them.
        recall_at_10: Of the server's answers.
    """

    corpus: str
    kind: str
    parameters: dict[str, int]
    batch: int
    callers: int
    queries_per_s: float
    alone: Speed
    in_process: Speed
    served_over_inprocess: float
    spread: list[float]
    recall_at_10: float

    HEAD = (
        f"{'corpus':10} {'kind':8} {'effort':>6} {'batch':>5} {'served q/s':>11} {'p50 ms':>8} "
        f"{'p99 ms':>8} {'direct q/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>6} {'spread':>12} "
        f"{'recall@10':>9}"
    )

    def __str__(self) -> str:
        least, most = self.spread
        return (
            f"{self.corpus:10} {self.kind:8} {effort(self.kind, self.parameters) or '':>6} "
            f"{self.batch:5} "
            f"{self.queries_per_s:11.0f} {self.alone.p50_ms:8.2f} {self.alone.p99_ms:8.2f} "
            f"{self.in_process.queries_per_s:11.0f} {self.in_process.p50_ms:8.2f} "
            f"{self.in_process.p99_ms:8.2f} {self.served_over_inprocess:6.2f} "
            f"{f'{least:.2f}-{most:.2f}':>12} {self.recall_at_10:9.4f}"
        )


def write_corpus(folder: Path, profile: Profile, data: Data) -> float:
    """Writes an index folder with short documents; ids are positions.

    Args:
        folder: Where.
        profile: Of the server's checkpoint.
        data: What it is to hold.

    Returns:
        Seconds.
    """
    began = time.perf_counter()
    count = len(data.vectors)
    ids = [str(n) for n in range(count)]
    documents = [f'{{"n":{n}}}' for n in range(count)]
    write_index(folder, profile, data.vectors, ids, documents, plan=IndexPlan(kind="exact"))
    return time.perf_counter() - began


def put_snapshot(folder: Path, built: Built, parameters: dict[str, int], data: Data) -> None:
    """Makes a FAISS index that is there already the snapshot that is served.

    Compaction would train it a second time: minutes, for the same index.

    Args:
        folder: Of the index, as `write_corpus` left it.
        built: An index of the same vectors in the same order.
        parameters: How it is to be searched.
        data: What it holds.
    """
    kind = KINDS[built.kind]
    with Store.open(folder) as store:
        first = read_manifest(folder, store.snapshot)
        assert first is not None
        rows = np.arange(1, first.count + 1)  # a new store numbers from 1
        snapshot = Snapshot.from_contents(
            StoreContents(first.sequence, first.last_row, rows, data.vectors),
            TunedIndex(kind, parameters, built.index),
            profile_name=store.profile_name,
            profile_hash=store.profile_hash,
        )
        snapshot.save(folder)
        store.set_snapshot(snapshot.name)
        store.set_plan(IndexPlan(kind.name, parameters=parameters))


def compare(
    data: Data, client: Client, built: Built, parameters: dict[str, int], pace: Pace
) -> Iterator[Served]:
    """Measures the server against the same index in this process, by turns.

    Args:
        data: What is served.
        client: Of the server.
        built: The index that is served.
        parameters: How it is searched, there and here.
        pace: How much to measure.
    """
    queries = data.truth.queries
    recall = data.truth.recall(_found(client, queries))
    for batch in BATCHES:
        parts = batches(queries, batch)
        direct = _Calls(lambda part: built.search(part, parameters), parts, pace.turn_s)
        alone = _Calls(lambda part: ask(client, part), parts, pace.turn_s)
        with ThreadPoolExecutor(CALLERS) as pool:
            together = _together(pool, client, alone.parts)
            turns: dict[str, Callable[[], object]] = {
                "direct": direct,
                "together": together,
                "alone": alone,
            }
            seconds = in_turn(turns, pace.rounds)
        # The two sides' turns take as long, so they have other numbers of calls.
        per_call = {
            "direct": [turn / len(direct.parts) for turn in seconds["direct"]],
            "together": [turn / len(alone.parts) for turn in seconds["together"]],
        }
        served: dict[str, Any] = ratio("ratio", per_call["direct"], per_call["together"])
        yield Served(
            data.corpus.name,
            built.kind,
            parameters,
            batch,
            CALLERS,
            round(batch / float(np.median(per_call["together"])), 1),
            Speed.of(alone.timed(pace.rounds), batch),
            Speed.of(direct.timed(pace.rounds), batch),
            served["ratio"],
            served["ratio_spread"],
            round(recall, 4),
        )


def ask(client: Client, queries: NDArray[np.float32]) -> Rows:
    """One request to `faiss` with all of the queries (B, D)."""
    rows = {contract.EMBEDDING.name: queries}
    return client.infer(contract.FAISS, rows, {contract.TOP_K: K}, None)


def _together(
    pool: ThreadPoolExecutor, client: Client, parts: Sequence[NDArray[np.float32]]
) -> Callable[[], object]:
    """What asks the server with all of the pool's threads."""
    return lambda: list(pool.map(lambda part: ask(client, part), parts))


class _Calls:
    """One side's turn: calls, one after another, for about some seconds.

    Args:
        call: What is called with a batch of queries.
        parts: Batches; taken again from the first where there are too few.
        turn_s: Seconds.
    """

    def __init__(
        self,
        call: Callable[[NDArray[np.float32]], object],
        parts: Sequence[NDArray[np.float32]],
        turn_s: float,
    ) -> None:
        self._call, self._seconds = call, list[float]()
        self.parts: Sequence[NDArray[np.float32]] = parts[:_LEAST_CALLS]
        self()
        wanted = round(turn_s / float(np.median(self._seconds)))
        count = min(max(wanted, _LEAST_CALLS), _MOST_CALLS)
        self.parts = list(itertools.islice(itertools.cycle(parts), count))

    def __call__(self) -> None:
        for part in self.parts:
            began = time.perf_counter()
            self._call(part)
            self._seconds.append(time.perf_counter() - began)

    def timed(self, rounds: int) -> list[float]:
        """Seconds of each call of the last rounds."""
        return self._seconds[-rounds * len(self.parts) :]


def _found(client: Client, queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """What the server finds, as positions (Q, 10)."""
    ids = [ask(client, part)[contract.IDS.name] for part in batches(queries, 32)]
    return np.concatenate(ids).astype(np.int64)
