"""Search: kinds of index and other libraries, the server against FAISS, searches during writes.

    python -m benchmarks.search [--quick] [--save [NAME]] [--corpora 10k,100k] [--kinds exact,ivf]

For each corpus of clustered vectors (`corpora.py`) it measures:

- every kind of index, and hnswlib and usearch, inside this process with one thread: build time,
  memory, recall@10 against exact search, queries per second at batch 1 and 32; then the speed of
  each at a recall of 0.99 against exact search, by turns (`in_process.py`).
- the `faiss` model of a real Triton over gRPC against the same FAISS index called inside this
  process, by turns (`served_index.py`).
- for one corpus, upserts per second through Triton, and the latency of single queries at the same
  time (`search_while_writing.py`).

`--corpora demo` uses the demo's pictures and names (`demo_corpus.py`).

hnswlib has no wheel, so it is only measured if it is installed (`pip install hnswlib`, which needs
a C++ compiler).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict

from benchmarks.search.corpora import CORPORA, DEMO, PEERS, MeasurementBudget
from lensemble.index.snapshots.faiss_index import faiss_module
from lensemble.index.snapshots.kinds import EXACT, HNSW, IVF, IVF_SQ8, KINDS
from lensemble.index.storage.index_plan import RECALL_TARGET
from lensemble.operations.signals import stop_on_signals

# Corpora to write to: the first of them that is measured.
WRITTEN = ("100k", "10k")

# Graphs and product quantizers of a million vectors, or of long vectors, take minutes to build.
_FEW = (EXACT.name, IVF.name, IVF_SQ8.name)
_FULL = {"10k": (*KINDS, *PEERS), "100k": (*KINDS, *PEERS), "1m": _FEW, "100kx2048": _FEW}
_DEMO = {DEMO: (*KINDS,)}
_QUICK = dict.fromkeys(("10k", "2kx2048"), (EXACT.name, IVF.name, HNSW.name, *PEERS))
_QUICK_BUDGET = MeasurementBudget(
    queries=512, rounds=3, direct_s=0.05, turn_s=0.3, writing_s=1.0, enough=RECALL_TARGET
)


def main() -> None:
    """Measures all corpora and prints tables, then one line of JSON."""
    began = time.monotonic()
    plans, budget, options = _parse_arguments()
    # Threads of an index build that spin while they wait keep the others off the cores: on two busy
    # cores a build is ten times slower. OpenMP reads this variable when PyTorch or FAISS loads it;
    # the server must start without it.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    from benchmarks.search.run_benchmark import run_benchmark, save

    faiss_module()
    del os.environ["OMP_WAIT_POLICY"]
    largest = max(plans, key=lambda name: CORPORA[name].count if name in CORPORA else 0)
    written = next((name for name in WRITTEN if name in plans), "")
    # A server takes seconds to start.
    served = [] if options.direct else [largest] if options.quick else list(plans)
    results = run_benchmark(plans, served, written, budget)
    summary = results.summary(largest)
    summary["seconds"] = round(time.monotonic() - began, 1)
    if options.save:
        save(options.save, results, summary, {"pace": asdict(budget), "kinds": plans})
    print(f"\n{json.dumps(summary, separators=(',', ':'))}")


def _parse_arguments() -> tuple[dict[str, tuple[str, ...]], MeasurementBudget, argparse.Namespace]:
    """Returns corpora with their kinds, the budget, and the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small corpora, few rounds")
    parser.add_argument(
        "--save",
        nargs="?",
        const="search",
        metavar="NAME",
        help="write benchmarks/results/NAME.json and .png; NAME is search if it is not given",
    )
    parser.add_argument("--corpora", help=f"some of {','.join((*CORPORA, DEMO))}")
    parser.add_argument("--direct", action="store_true", help="start no servers")
    parser.add_argument("--kinds", help=f"some of {','.join((*KINDS, *PEERS))}, for all corpora")
    parser.add_argument(
        "--peers-at-1m",
        action="store_true",
        help=f"{' and '.join(PEERS)} on a million vectors, too: minutes each",
    )
    options = parser.parse_args()
    plans = dict(_QUICK if options.quick else _FULL)
    if options.corpora:
        known = {**_FULL, **_QUICK, **_DEMO, **plans}
        plans = {name: known.get(name, ()) for name in options.corpora.split(",")}
    if options.peers_at_1m and "1m" in plans:
        plans["1m"] = (*plans["1m"], *PEERS)
    if options.kinds:
        plans = dict.fromkeys(plans, tuple(options.kinds.split(",")))
    for name, kinds in plans.items():
        if name not in (*CORPORA, DEMO) or not set(kinds) <= {*KINDS, *PEERS}:
            parser.error(f"no such corpus or kind: {name}, {', '.join(kinds)}")
    return plans, _QUICK_BUDGET if options.quick else MeasurementBudget(), options


if __name__ == "__main__":
    with stop_on_signals():
        main()
