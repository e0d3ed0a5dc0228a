"""Runs the search benchmark: measures one corpus after another, prints tables, saves results."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common.random_checkpoint import random_serving_checkpoint
from benchmarks.common.results import RESULTS, machine
from benchmarks.search.corpora import CORPORA, DEMO, PEERS, CorpusWithQueries, MeasurementBudget
from benchmarks.search.demo_corpus import demo_corpus
from benchmarks.search.in_process import (
    BuiltIndex,
    OperatingPoint,
    build,
    effort,
    measure,
    speedups,
)
from benchmarks.search.plot import plot
from benchmarks.search.search_while_writing import WriteMeasurement, measure_writes
from benchmarks.search.served_index import ServedComparison, compare, install_snapshot, write_corpus
from lensemble.index.snapshots.kinds import EXACT, IVF
from lensemble.index.storage.index_plan import RECALL_TARGET
from lensemble.operations.tritonserver import TritonServer
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble_client import Client

SERVED = (EXACT.name, IVF.name)

_DISTRIBUTIONS = ("faiss-cpu", "hnswlib", "usearch", "nvidia-pytriton")
# Queries x vectors x dimensions of one turn of exact search: about 3 seconds.
_TURN_WORK = 65 * 10**9
# Folder for the indexes. A folder for temporary files could be in memory, where writes need no
# disk.
_FOLDER = Path(".cache")


@dataclass(slots=True)
class Results:
    """Everything that was measured.

    Attributes:
        points: Kinds of index at each effort, inside this process.
        speedups: Corpus -> kind -> speedup over exact search, at the kind's `chosen` point.
        served: The server compared with FAISS in this process.
        writes: Searches during writes; None if no corpus was written to.
    """

    points: list[OperatingPoint] = field(default_factory=list)
    speedups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    served: list[ServedComparison] = field(default_factory=list)
    writes: WriteMeasurement | None = None

    def chosen(self, corpus: str, kind: str) -> OperatingPoint | None:
        """Returns the first point of a kind with the target recall, or else its best point."""
        points = [point for point in self.points if (point.corpus, point.kind) == (corpus, kind)]
        enough = (point for point in points if point.recall_at_10 >= RECALL_TARGET)
        return next(enough, max(points, key=lambda point: point.recall_at_10, default=None))

    def summary(self, corpus: str) -> dict[str, Any]:
        """Returns the closing line for one corpus; figures that were not measured are None."""
        ivf = self.chosen(corpus, IVF.name)
        writes = self.writes
        return {
            "corpus": corpus,
            **self._ratios(corpus, EXACT.name, "served_over_inprocess_b32"),
            **self._ratios(corpus, IVF.name, "served_over_inprocess_b32_ivf"),
            "recall_at_10": ivf.recall_at_10 if ivf else None,
            "speedup_over_exact": None,
            "speedup_over_exact_spread": None,
            **self.speedups.get(corpus, {}).get(IVF.name, {}),
            "ivf_nprobe": effort(ivf.kind, ivf.parameters) if ivf else None,
            "written_corpus": writes.corpus if writes else None,
            "upserts_per_s": writes.upserts_per_s if writes else None,
            "p99_writing_over_idle": writes.p99_writing_over_idle if writes else None,
            "p99_writing_over_idle_spread": writes.spread if writes else None,
        }

    def _ratios(self, corpus: str, kind: str, name: str) -> dict[str, Any]:
        for row in self.served:
            if (row.corpus, row.kind, row.batch) == (corpus, kind, 32):
                return {name: row.served_over_inprocess, f"{name}_spread": row.spread}
        return {name: None, f"{name}_spread": None}


def _measure_in_process(
    data: CorpusWithQueries, kinds: Sequence[str], budget: MeasurementBudget, results: Results
) -> dict[str, BuiltIndex]:
    """Builds and measures kinds inside this process; returns those that are served afterwards."""
    name = data.corpus.name
    indexes: dict[str, BuiltIndex] = {}
    print(f"\n{data.corpus}, in this process, one thread\n{OperatingPoint.HEAD}", flush=True)
    for kind in kinds:
        if kind in PEERS and find_spec(kind) is None:
            print(f"{name:10} {kind:8} is not installed", flush=True)
            continue
        indexes[kind] = build(kind, data.vectors)
        for point in measure(data, indexes[kind], budget):
            results.points.append(point)
            print(point, flush=True)
    if EXACT.name in indexes and len(indexes) > 1:
        print(
            f"{'corpus':10} {'kind':8} {'effort':>6} times as fast as exact, batch 32", flush=True
        )
        others = {
            kind: (built, best.parameters)
            for kind, built in indexes.items()
            if kind != EXACT.name and (best := results.chosen(name, kind))
        }
        # Exact search of a million vectors answers about 80 queries per second.
        queries = data.truth.queries[: max(32, _TURN_WORK // data.vectors.size)]
        results.speedups[name] = speedups(indexes[EXACT.name], others, queries, budget.rounds)
        for kind, speedup in results.speedups[name].items():
            least, most = speedup["speedup_over_exact_spread"]
            print(
                f"{name:10} {kind:8} {effort(kind, others[kind][1]) or '':>6} "
                f"{speedup['speedup_over_exact']:.2f} ({least:.2f}-{most:.2f})",
                flush=True,
            )
    return {kind: indexes[kind] for kind in SERVED if kind in indexes}


def _measure_server(
    data: CorpusWithQueries,
    indexes: Mapping[str, BuiltIndex],
    write: bool,
    budget: MeasurementBudget,
    results: Results,
) -> None:
    """Measures a server of each index, and writes to the last one if asked to."""
    checkpoint = random_serving_checkpoint()
    profile = Profile.load(checkpoint)
    _FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="search-", dir=_FOLDER) as temporary:
        folder = Path(temporary) / "index"
        seconds = write_corpus(folder, profile, data)
        print(f"\n{data.corpus}, through Triton (index written in {seconds:.1f} s)", flush=True)
        print(ServedComparison.HEAD, flush=True)
        for kind, built in indexes.items():
            point = results.chosen(data.corpus.name, kind)
            assert point is not None
            if kind != EXACT.name:  # the exact snapshot already exists
                install_snapshot(folder, built, point.parameters, data)
            settings = Settings(checkpoint=checkpoint, index=folder, writes="on")
            with TritonServer(settings) as server:
                with Client(server.grpc_url) as client:
                    for row in compare(data, client, built, point.parameters, budget):
                        results.served.append(row)
                        print(row, flush=True)
                if write and kind == list(indexes)[-1]:
                    results.writes = measure_writes(
                        data, kind, settings, server.grpc_url, profile.hash, budget
                    )
                    print(f"\n{data.corpus}, written to\n{WriteMeasurement.HEAD}", flush=True)
                    print(results.writes, flush=True)


def run_benchmark(
    plans: Mapping[str, Sequence[str]], serve: Sequence[str], write: str, budget: MeasurementBudget
) -> Results:
    """Measures corpora one after another, and prints tables.

    Args:
        plans: Corpus -> kinds of index and peers.
        serve: Names of the corpora that are also served.
        write: Name of the served corpus that is written to; empty for none.
        budget: How much to measure.
    """
    results = Results()
    for name, kinds in plans.items():
        data = (
            demo_corpus(budget.queries)
            if name == DEMO
            else CorpusWithQueries.of(CORPORA[name], budget.queries)
        )
        indexes = _measure_in_process(data, kinds, budget, results)
        if indexes and name in serve:
            _measure_server(data, indexes, name == write, budget, results)
        del data, indexes  # free a million vectors and their indexes before the next are made
    return results


def save(
    name: str, results: Results, summary: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    """Writes the result file and the plot.

    Args:
        name: Name of both files, without their suffix.
        results: Everything that was measured.
        summary: Content of the closing line.
        params: Parameters of the run.
    """
    # Limiting FAISS to one thread also limits PyTorch, whose threads `machine` reports as cores.
    cores = len(os.sched_getaffinity(0))
    content = {
        "machine": {**machine(), "cores": cores, **_versions()},
        "params": params,
        "results": summary,
        "rows": asdict(results),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(results.points, RESULTS / f"{name}.png")


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
