"""Search: kinds of index and their peers, the server against FAISS itself, writes beside searches.

    python -m benchmarks.search [--quick] [--save] [--corpora 10k,100k] [--kinds exact,ivf]

For each corpus of clustered vectors (`search_data`):

- every kind of index, and hnswlib and usearch, inside this process with one thread: build time,
  memory, recall@10 against exact search, queries per second at batch 1 and 32 (`search_direct`);
  then each at a recall of 0.99 against exact search, by turns.
- the `faiss` model of a real Triton over gRPC against that same FAISS index called inside this
  process, by turns (`search_served`).
- for one corpus, upserts per second through Triton, and how long single queries take meanwhile
  (`search_writing`).

hnswlib has no wheel: it takes part if it is installed (`pip install hnswlib`, with a C++ compiler).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine
from benchmarks.random_model import random_serving_checkpoint
from benchmarks.search_data import CORPORA, Data, Pace
from benchmarks.search_direct import PEERS, Built, Point, build, effort, measure, speedups
from benchmarks.search_plot import plot
from benchmarks.search_served import Served, compare, put_snapshot, write_corpus
from benchmarks.search_writing import Writes, measure_writes
from lensemble.config import Settings
from lensemble.index.kinds import EXACT, HNSW, IVF, IVF_SQ8, KINDS, faiss_module
from lensemble.index.plan import RECALL_TARGET
from lensemble.profile import Profile
from lensemble.server import TritonServer, stop_on_signals
from lensemble_client import Client

SERVED = (EXACT.name, IVF.name)
WRITTEN = ("100k", "10k")
"""Corpora to write to: the first of them that is measured."""

# Graphs and product quantizers of a million vectors, or of long ones, take minutes each to build.
_FEW = (EXACT.name, IVF.name, IVF_SQ8.name)
_FULL = {"10k": (*KINDS, *PEERS), "100k": (*KINDS, *PEERS), "1m": _FEW, "100kx2048": _FEW}
_QUICK = dict.fromkeys(("10k", "2kx2048"), (EXACT.name, IVF.name, HNSW.name, *PEERS))
_QUICK_PACE = Pace(
    queries=512, rounds=3, direct_s=0.05, turn_s=0.3, writing_s=1.0, enough=RECALL_TARGET
)
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
            "ivf_nprobe": effort(ivf.parameters) if ivf else None,
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


def direct(data: Data, kinds: Sequence[str], pace: Pace, results: Results) -> dict[str, Built]:
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
                f"{name:10} {kind:8} {effort(others[kind][1]) or '':>6} "
                f"{found['speedup_over_exact']:.2f} ({least:.2f}-{most:.2f})",
                flush=True,
            )
    return {kind: made[kind] for kind in SERVED if kind in made}


def served(
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


def main() -> None:
    """Measures all corpora and prints tables, then one JSON line."""
    began = time.monotonic()
    plans, pace, given = _arguments()
    # Threads of a build that wait for one another by spinning keep the others off the cores: ten
    # times slower on two busy ones. OpenMP reads this once; the server must not inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    faiss_module()
    del os.environ["OMP_WAIT_POLICY"]
    results = Results()
    largest = max(plans, key=lambda name: CORPORA[name].count)
    written = next((name for name in WRITTEN if name in plans), "")
    for name, kinds in plans.items():
        data = Data.of(CORPORA[name], pace.queries)
        made = direct(data, kinds, pace, results)
        if made and (name == largest or not given.quick):  # a server takes seconds to start
            served(data, made, name == written, pace, results)
        del data, made  # a million vectors and their indexes, before the next are made
    summary = results.summary(largest)
    summary["seconds"] = round(time.monotonic() - began, 1)
    if given.save:
        _save(results, summary, {"pace": asdict(pace), "kinds": plans})
    print(f"\n{json.dumps(summary, separators=(',', ':'))}")


def _arguments() -> tuple[dict[str, tuple[str, ...]], Pace, argparse.Namespace]:
    """Corpora with their kinds, the pace, and the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small corpora, few rounds")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/search.json and search.png"
    )
    parser.add_argument("--corpora", help=f"some of {','.join(CORPORA)}")
    parser.add_argument("--kinds", help=f"some of {','.join((*KINDS, *PEERS))}, for all corpora")
    parser.add_argument(
        "--peers-at-1m",
        action="store_true",
        help=f"{' and '.join(PEERS)} on a million vectors, too: minutes each",
    )
    given = parser.parse_args()
    plans = dict(_QUICK if given.quick else _FULL)
    if given.corpora:
        plans = {
            name: {**_FULL, **_QUICK, **plans}.get(name, ()) for name in given.corpora.split(",")
        }
    if given.peers_at_1m and "1m" in plans:
        plans["1m"] = (*plans["1m"], *PEERS)
    if given.kinds:
        plans = dict.fromkeys(plans, tuple(given.kinds.split(",")))
    for name, kinds in plans.items():
        if name not in CORPORA or not set(kinds) <= {*KINDS, *PEERS}:
            parser.error(f"no such corpus or kind: {name}, {', '.join(kinds)}")
    return plans, _QUICK_PACE if given.quick else Pace(), given


def _save(results: Results, summary: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes everything that was measured, and the picture."""
    content = {
        "machine": machine() | _versions(),
        "params": params,
        "results": summary,
        "rows": asdict(results),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "search.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(results.points, RESULTS / "search.png")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    with stop_on_signals():
        main()
