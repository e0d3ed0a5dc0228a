"""Runs the search benchmark: every corpus in turn, tables as it goes, results at the end."""

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

from benchmarks.common.measure import RESULTS, machine
from benchmarks.common.random_model import random_serving_checkpoint
from benchmarks.search.data import CORPORA, DEMO, PEERS, Data, Pace
from benchmarks.search.demo_vectors import demo
from benchmarks.search.direct import Built, Point, build, effort, measure, speedups
from benchmarks.search.plot import plot
from benchmarks.search.served import Served, compare, put_snapshot, write_corpus
from benchmarks.search.writing import Writes, measure_writes
from lensemble.index.snapshots.kinds import EXACT, IVF
from lensemble.index.storage.index_plan import RECALL_TARGET
from lensemble.operations.tritonserver import TritonServer
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble_client import Client

SERVED = (EXACT.name, IVF.name)

_DISTRIBUTIONS = ("faiss-cpu", "hnswlib", "usearch", "nvidia-pytriton")
_TURN_WORK = 65 * 10**9
"""Queries x vectors x dimensions of one turn of exact search: about 3 seconds."""
_FOLDER = Path(".cache")
"""Of the indexes; a folder for temporary files may lie in memory, where no write waits for a disk.
"""


@dataclass(slots=True)
class Results:
    """All rows, as they come.

    Attributes:
        points: Kinds and efforts, inside this process.
        speedups: Corpus -> kind -> how many times faster than exact search, at its `chosen` point.
        served: The server against FAISS itself.
        writes: None if no corpus was written to.
    """

    points: list[Point] = field(default_factory=list)
    speedups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    served: list[Served] = field(default_factory=list)
    writes: Writes | None = None

    def chosen(self, corpus: str, kind: str) -> Point | None:
        """Where a kind first reaches the recall that is asked for, or else its best point."""
        line = [point for point in self.points if (point.corpus, point.kind) == (corpus, kind)]
        enough = (point for point in line if point.recall_at_10 >= RECALL_TARGET)
        return next(enough, max(line, key=lambda point: point.recall_at_10, default=None))

    def summary(self, corpus: str) -> dict[str, Any]:
        """The closing line: what it says of search holds for one corpus; null was not measured."""
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


def _direct(data: Data, kinds: Sequence[str], pace: Pace, results: Results) -> dict[str, Built]:
    """Builds and measures kinds inside this process; gives those that are to be served."""
    name = data.corpus.name
    made: dict[str, Built] = {}
    print(f"\n{data.corpus}, in this process, one thread\n{Point.HEAD}", flush=True)
    for kind in kinds:
        if kind in PEERS and find_spec(kind) is None:
            print(f"{name:10} {kind:8} is not installed", flush=True)
            continue
        made[kind] = build(kind, data.vectors)
        for point in measure(data, made[kind], pace):
            results.points.append(point)
            print(point, flush=True)
    if EXACT.name in made and len(made) > 1:
        print(
            f"{'corpus':10} {'kind':8} {'effort':>6} times as fast as exact, batch 32", flush=True
        )
        others = {
            kind: (built, best.parameters)
            for kind, built in made.items()
            if kind != EXACT.name and (best := results.chosen(name, kind))
        }
        # Exact search of a million vectors answers some eighty queries per second.
        queries = data.truth.queries[: max(32, _TURN_WORK // data.vectors.size)]
        results.speedups[name] = speedups(made[EXACT.name], others, queries, pace.rounds)
        for kind, found in results.speedups[name].items():
            least, most = found["speedup_over_exact_spread"]
            print(
                f"{name:10} {kind:8} {effort(kind, others[kind][1]) or '':>6} "
                f"{found['speedup_over_exact']:.2f} ({least:.2f}-{most:.2f})",
                flush=True,
            )
    return {kind: made[kind] for kind in SERVED if kind in made}


def _served(
    data: Data, made: Mapping[str, Built], write: bool, pace: Pace, results: Results
) -> None:
    """Measures a server of each of the indexes; and writes to the last one if asked to."""
    checkpoint = random_serving_checkpoint()
    profile = Profile.load(checkpoint)
    _FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="search-", dir=_FOLDER) as temporary:
        folder = Path(temporary) / "index"
        seconds = write_corpus(folder, profile, data)
        print(f"\n{data.corpus}, through Triton (index written in {seconds:.1f} s)", flush=True)
        print(Served.HEAD, flush=True)
        for kind, built in made.items():
            point = results.chosen(data.corpus.name, kind)
            assert point is not None
            if kind != EXACT.name:  # that one stands there
                put_snapshot(folder, built, point.parameters, data)
            settings = Settings(checkpoint=checkpoint, index=folder, writes="on")
            with TritonServer(settings) as server:
                with Client(server.grpc_url) as client:
                    for row in compare(data, client, built, point.parameters, pace):
                        results.served.append(row)
                        print(row, flush=True)
                if write and kind == list(made)[-1]:
                    results.writes = measure_writes(
                        data, kind, folder, server.grpc_url, profile.hash, pace
                    )
                    print(f"\n{data.corpus}, written to\n{Writes.HEAD}", flush=True)
                    print(results.writes, flush=True)


def run(
    plans: Mapping[str, Sequence[str]], serve: Sequence[str], write: str, pace: Pace
) -> Results:
    """Measures corpora one after another, and prints tables.

    Args:
        plans: Corpus -> kinds of index and peers.
        serve: Corpora that are served, too.
        write: The one of them that is written to; empty for none.
        pace: How much to measure.
    """
    results = Results()
    for name, kinds in plans.items():
        data = demo(pace.queries) if name == DEMO else Data.of(CORPORA[name], pace.queries)
        made = _direct(data, kinds, pace, results)
        if made and name in serve:
            _served(data, made, name == write, pace, results)
        del data, made  # a million vectors and their indexes, before the next are made
    return results


def save(
    name: str, results: Results, summary: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    """Writes everything that was measured, and the picture.

    Args:
        name: Of both files.
        results: What was measured.
        summary: The closing line.
        params: What it was run with.
    """
    # FAISS's one thread per search is PyTorch's, too, which `machine` counts.
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
    found: dict[str, str | None] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
