"""The `faiss` model of a real Triton over gRPC against FAISS called inside this process.

Both sides search the same FAISS index: the index that was trained here is written into the index
folder as its snapshot.
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

from benchmarks.common.timing import ratio, time_in_turn
from benchmarks.search.corpora import CorpusWithQueries, MeasurementBudget
from benchmarks.search.in_process import BATCHES, BuiltIndex, CallSpeed, batches, effort
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
_MIN_CALLS = 2 * CALLERS
_MAX_CALLS = 5000


@dataclass(frozen=True, slots=True)
class ServedComparison:
    """One kind of index, served and in this process, measured by turns.

    Attributes:
        corpus: Name of the corpus.
        kind: A name in `KINDS`.
        parameters: All parameters of the index and the search.
        batch: Number of queries in one request, or in one call of FAISS.
        callers: Number of concurrent callers, for `queries_per_s`.
        queries_per_s: Queries per second of the server, median over the rounds.
        alone: Speed of the server with a single caller.
        in_process: Speed of FAISS called directly, by one thread.
        served_over_inprocess: Ratio of queries per second, median over the rounds.
        spread: Smallest and largest ratio of a round.
        recall_at_10: Recall of the server's answers.
    """

    corpus: str
    kind: str
    parameters: dict[str, int]
    batch: int
    callers: int
    queries_per_s: float
    alone: CallSpeed
    in_process: CallSpeed
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


def write_corpus(folder: Path, profile: Profile, data: CorpusWithQueries) -> float:
    """Writes an index folder with short documents and positions as ids.

    Args:
        folder: Folder to write.
        profile: Profile of the server's checkpoint.
        data: Corpus to write.

    Returns:
        Seconds that it took.
    """
    began = time.perf_counter()
    count = len(data.vectors)
    ids = [str(n) for n in range(count)]
    documents = [f'{{"n":{n}}}' for n in range(count)]
    write_index(folder, profile, data.vectors, ids, documents, plan=IndexPlan(kind="exact"))
    return time.perf_counter() - began


def install_snapshot(
    folder: Path, built: BuiltIndex, parameters: dict[str, int], data: CorpusWithQueries
) -> None:
    """Makes an existing FAISS index the snapshot that is served.

    Compaction would take minutes to train the same index a second time.

    Args:
        folder: Index folder that `write_corpus` wrote.
        built: Index of the same vectors in the same order.
        parameters: Parameters of the index and the search.
        data: Corpus in the index.
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
    data: CorpusWithQueries,
    client: Client,
    built: BuiltIndex,
    parameters: dict[str, int],
    budget: MeasurementBudget,
) -> Iterator[ServedComparison]:
    """Measures the server against the same index in this process, by turns.

    Args:
        data: Corpus in the index.
        client: Client of the server.
        built: Index that is served.
        parameters: Parameters of the search, on both sides.
        budget: How much to measure.
    """
    queries = data.truth.queries
    recall = data.truth.recall(_search_server(client, queries))
    for batch in BATCHES:
        parts = batches(queries, batch)
        direct = _TimedCalls(lambda part: built.search(part, parameters), parts, budget.turn_s)
        alone = _TimedCalls(lambda part: search_request(client, part), parts, budget.turn_s)
        with ThreadPoolExecutor(CALLERS) as pool:
            together = _call_concurrently(pool, client, alone.parts)
            turns: dict[str, Callable[[], object]] = {
                "direct": direct,
                "together": together,
                "alone": alone,
            }
            seconds = time_in_turn(turns, budget.rounds)
        # The turns of both sides take the same time, so they have different numbers of calls.
        per_call = {
            "direct": [turn / len(direct.parts) for turn in seconds["direct"]],
            "together": [turn / len(alone.parts) for turn in seconds["together"]],
        }
        served: dict[str, Any] = ratio("ratio", per_call["direct"], per_call["together"])
        yield ServedComparison(
            data.corpus.name,
            built.kind,
            parameters,
            batch,
            CALLERS,
            round(batch / float(np.median(per_call["together"])), 1),
            CallSpeed.of(alone.timed(budget.rounds), batch),
            CallSpeed.of(direct.timed(budget.rounds), batch),
            served["ratio"],
            served["ratio_spread"],
            round(recall, 4),
        )


def search_request(client: Client, queries: NDArray[np.float32]) -> Rows:
    """Sends one request to the `faiss` model with all queries (B, D)."""
    rows = {contract.EMBEDDING.name: queries}
    return client.infer(contract.FAISS, rows, {contract.TOP_K: K}, None)


def _call_concurrently(
    pool: ThreadPoolExecutor, client: Client, parts: Sequence[NDArray[np.float32]]
) -> Callable[[], object]:
    """Returns a function that sends one request per batch from the pool's threads."""
    return lambda: list(pool.map(lambda part: search_request(client, part), parts))


class _TimedCalls:
    """One side's turn: calls one after another for about `turn_s` seconds.

    Args:
        call: Function that takes a batch of queries.
        parts: Batches, which are repeated if there are too few.
        turn_s: Seconds of one turn.
    """

    def __init__(
        self,
        call: Callable[[NDArray[np.float32]], object],
        parts: Sequence[NDArray[np.float32]],
        turn_s: float,
    ) -> None:
        self._call, self._seconds = call, list[float]()
        self.parts: Sequence[NDArray[np.float32]] = parts[:_MIN_CALLS]
        self()
        fitting = round(turn_s / float(np.median(self._seconds)))
        count = min(max(fitting, _MIN_CALLS), _MAX_CALLS)
        self.parts = list(itertools.islice(itertools.cycle(parts), count))

    def __call__(self) -> None:
        for part in self.parts:
            began = time.perf_counter()
            self._call(part)
            self._seconds.append(time.perf_counter() - began)

    def timed(self, rounds: int) -> list[float]:
        """Returns the seconds of each call of the last rounds."""
        return self._seconds[-rounds * len(self.parts) :]


def _search_server(client: Client, queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the positions that the server finds, (Q, 10) int64."""
    ids = [search_request(client, part)[contract.IDS.name] for part in batches(queries, 32)]
    return np.concatenate(ids).astype(np.int64)
