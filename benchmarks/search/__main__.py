"""Search: kinds of index and their peers, the server against FAISS itself, writes beside searches.

    python -m benchmarks.search [--quick] [--save [NAME]] [--corpora 10k,100k] [--kinds exact,ivf]

For each corpus of clustered vectors (`search_data`):

- every kind of index, and hnswlib and usearch, inside this process with one thread: build time,
  memory, recall@10 against exact search, queries per second at batch 1 and 32 (`search_direct`);
  then each at a recall of 0.99 against exact search, by turns.
- the `faiss` model of a real Triton over gRPC against that same FAISS index called inside this
  process, by turns (`search_served`).
- for one corpus, upserts per second through Triton, and how long single queries take meanwhile
  (`search_writing`).

`--corpora demo` takes the demo's pictures and names (`search_demo`).

hnswlib has no wheel: it takes part if it is installed (`pip install hnswlib`, with a C++ compiler).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict

from benchmarks.search.data import CORPORA, DEMO, PEERS, Pace
from lensemble.index.snapshots.faiss_index import faiss_module
from lensemble.index.snapshots.kinds import EXACT, HNSW, IVF, IVF_SQ8, KINDS
from lensemble.index.storage.index_plan import RECALL_TARGET
from lensemble.operations.tritonserver import stop_on_signals

WRITTEN = ("100k", "10k")
"""Corpora to write to: the first of them that is measured."""

# Graphs and product quantizers of a million vectors, or of long ones, take minutes each to build.
_FEW = (EXACT.name, IVF.name, IVF_SQ8.name)
_FULL = {"10k": (*KINDS, *PEERS), "100k": (*KINDS, *PEERS), "1m": _FEW, "100kx2048": _FEW}
_DEMO = {DEMO: (*KINDS,)}
_QUICK = dict.fromkeys(("10k", "2kx2048"), (EXACT.name, IVF.name, HNSW.name, *PEERS))
_QUICK_PACE = Pace(
    queries=512, rounds=3, direct_s=0.05, turn_s=0.3, writing_s=1.0, enough=RECALL_TARGET
)


def main() -> None:
    """Measures all corpora and prints tables, then one JSON line."""
    began = time.monotonic()
    plans, pace, given = _arguments()
    # A build's threads that spin while they wait keep the others off the cores: ten times slower
    # on two busy ones. OpenMP reads this when PyTorch or FAISS loads it; the server is to start
    # without it.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    from benchmarks.search.run import run, save

    faiss_module()
    del os.environ["OMP_WAIT_POLICY"]
    largest = max(plans, key=lambda name: CORPORA[name].count if name in CORPORA else 0)
    written = next((name for name in WRITTEN if name in plans), "")
    # A server takes seconds to start.
    served = [] if given.direct else [largest] if given.quick else list(plans)
    results = run(plans, served, written, pace)
    summary = results.summary(largest)
    summary["seconds"] = round(time.monotonic() - began, 1)
    if given.save:
        save(given.save, results, summary, {"pace": asdict(pace), "kinds": plans})
    print(f"\n{json.dumps(summary, separators=(',', ':'))}")


def _arguments() -> tuple[dict[str, tuple[str, ...]], Pace, argparse.Namespace]:
    """Corpora with their kinds, the pace, and the options."""
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
    parser.add_argument("--direct", action="store_true", help="no servers")
    parser.add_argument("--kinds", help=f"some of {','.join((*KINDS, *PEERS))}, for all corpora")
    parser.add_argument(
        "--peers-at-1m",
        action="store_true",
        help=f"{' and '.join(PEERS)} on a million vectors, too: minutes each",
    )
    given = parser.parse_args()
    plans = dict(_QUICK if given.quick else _FULL)
    if given.corpora:
        known = {**_FULL, **_QUICK, **_DEMO, **plans}
        plans = {name: known.get(name, ()) for name in given.corpora.split(",")}
    if given.peers_at_1m and "1m" in plans:
        plans["1m"] = (*plans["1m"], *PEERS)
    if given.kinds:
        plans = dict.fromkeys(plans, tuple(given.kinds.split(",")))
    for name, kinds in plans.items():
        if name not in (*CORPORA, DEMO) or not set(kinds) <= {*KINDS, *PEERS}:
            parser.error(f"no such corpus or kind: {name}, {', '.join(kinds)}")
    return plans, _QUICK_PACE if given.quick else Pace(), given


if __name__ == "__main__":
    with stop_on_signals():
        main()
