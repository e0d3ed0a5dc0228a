"""The served way against the same way in one process, and what it does near its limit.

    python -m benchmarks.serving.served [--quick] [--save]

Two workloads (`benchmarks/common/workloads.py`) on one machine's cores, items half texts, half
pictures (a third of those with a text), precision as the server chooses it:

- `in_process`: `Pipeline.embed`, from bytes to vectors, 32 items at a time, nothing else running.
- `served`: `embed` on a real Triton over gRPC, 32 callers in a process of their own on the same
  cores; `b32` is the same with 32 items in a request, `one` a single caller.
- `at_80`: requests at random moments, 80 % as many a second as the callers reached; latency counts
  from the moment that a request was due.
- `search`: `search` over 100,000 vectors instead of `embed`, 32 callers.

They take turns in every round; a ratio is of one round, then the median of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.results import print_and_save
from benchmarks.common.timing import format_ratios, medians, ratio
from benchmarks.common.workloads import WORKLOADS
from benchmarks.search.corpora import VECTORS, VectorCorpus, clustered
from benchmarks.serving import callers
from benchmarks.serving.pipeline_process import BATCH, in_process
from lensemble.checkpoint import Checkpoint
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings

CALLERS = 32
SHARE_OF_PEAK = 0.8
CORPUS_ROWS = 100_000
FOLDER = Path(".cache/served")

_COLUMNS = ("items_per_s", "p50_ms", "p99_ms")

Figures = dict[str, Any]


FULL = {"demo": (5, 1536), "small": (3, 128)}
QUICK = {"demo": (3, 768), "small": (2, 64)}
"""Rounds, and items of one way in a round."""


def index(checkpoint: Path, name: str) -> Path:
    """Folder of an index of `CORPUS_ROWS` made-up vectors with short documents."""
    folder = FOLDER / name
    if not folder.is_dir():
        profile = Checkpoint.open(checkpoint).profile
        vectors = clustered(VectorCorpus(name, CORPUS_ROWS, profile.dimension, 1000), VECTORS)
        ids = [str(n) for n in range(CORPUS_ROWS)]
        documents = [f'{{"n":{n}}}' for n in range(CORPUS_ROWS)]
        write_index(folder, profile, vectors, ids, documents, plan=IndexPlan())
    return folder


def measure(name: str, rounds: int, count: int) -> Figures:
    """All ways of one workload, by turns.

    Args:
        name: A key of `WORKLOADS`.
        rounds: How many.
        count: Items of one way in a round, a multiple of `BATCH`.
    """
    checkpoint = WORKLOADS[name].checkpoint()
    settings = Settings(checkpoint=checkpoint, index=index(checkpoint, name))
    found: dict[str, list[Figures]] = {}

    def take(way: str, run: Callable[[], Figures]) -> Figures:
        print(f"{name}: {way}", file=sys.stderr)
        figures = run()
        found.setdefault(way, []).append(figures)
        return figures

    with in_process(name, callers.DISTINCT) as alone, TritonServer(settings) as server:

        def served(way: str, **options: float | bool) -> Figures:
            load: Figures = {"callers": CALLERS, "requests": count, **options}
            return take(way, lambda: callers.run(server.grpc_url, name, **load))

        for _ in range(rounds):
            take("in_process", lambda: {"items_per_s": round(alone.items_per_s(count), 2)})
            peak = served("served")["items_per_s"]
            if count >= CALLERS * BATCH // 2:  # with fewer, most callers would have no request
                served("b32", items=BATCH, requests=count // BATCH)
            served("at_80", rate=SHARE_OF_PEAK * peak)
            served("search", search=True)
            served("one", callers=1, requests=count // 4)
    return {**{way: medians(rounds) for way, rounds in found.items()}, **ratios(found)}


def ratios(found: dict[str, list[Figures]]) -> Figures:
    """What the ways are to each other: median of the rounds' own ratios, least and most."""
    rates = {way: [one["items_per_s"] for one in rounds] for way, rounds in found.items()}
    pairs = {
        "served_over_inprocess": (rates["served"], rates["in_process"]),
        "served_over_inprocess_b32": (rates.get("b32", []), rates["in_process"]),
        "search_over_embed": (rates["search"], rates["served"]),
        "p99_over_p50_at_80": tuple(
            [one[key] for one in found["at_80"]] for key in ("p99_ms", "p50_ms")
        ),
    }
    results: Figures = {}
    for key, (above, below) in pairs.items():
        if above:
            results |= ratio(key, above, below)
    return results


def table(name: str, results: Figures) -> str:
    """The figures of one workload for people."""
    lines = [f"{name:12} {'items/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'failed':>7}"]
    for way, one in results.items():
        if isinstance(one, dict):
            p50, p99 = (f"{one[k]:9.1f}" if k in one else " " * 9 for k in ("p50_ms", "p99_ms"))
            lines.append(
                f"  {way:10} {one['items_per_s']:9.1f} {p50} {p99} {one.get('failed', 0):7}"
            )
    return "\n".join([*lines, *format_ratios(results)])


def main() -> None:
    """Prints tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--workload", choices=WORKLOADS, help="only this one")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/served.json")
    given = parser.parse_args()
    pace = QUICK if given.quick else FULL
    names = [given.workload] if given.workload else list(WORKLOADS)
    with stop_on_signals():
        results = {name: measure(name, *pace[name]) for name in names}
    for name, figures in results.items():
        print(table(name, figures))
    params = {"rounds_and_items": pace, "callers": CALLERS}
    print_and_save("served", params, results, given.save)


if __name__ == "__main__":
    main()
