"""The server against the same pipeline in one process, and its latency near its limit.

    python -m benchmarks.serving.served [--quick] [--save]

It measures two workloads (`benchmarks/common/workloads.py`) on one machine's cores. Half of the
items are texts, half pictures (a third of those with a text); the server chooses the precision.

- `in_process`: `Pipeline.embed`, from bytes to vectors, 32 items at a time, with no other load.
- `served`: `embed` on a real Triton over gRPC, 32 callers in a process of their own on the same
  cores; `b32` has 32 items in a request, `one` a single caller.
- `at_80`: requests at random times, at 80 % of the rate that the callers reached; latency counts
  from the time at which a request was due.
- `search`: `search` over 100,000 vectors instead of `embed`, 32 callers.

They take turns in every round, and a ratio is the median of the ratios of each round.
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
from benchmarks.serving.pipeline_process import BATCH, pipeline_process
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


# Rounds, and items of one measurement in a round.
FULL = {"demo": (5, 1536), "small": (3, 128)}
QUICK = {"demo": (3, 768), "small": (2, 64)}


def make_index(checkpoint: Path, name: str) -> Path:
    """Returns the folder of an index of `CORPUS_ROWS` random vectors with short documents."""
    folder = FOLDER / name
    if not folder.is_dir():
        profile = Checkpoint.open(checkpoint).profile
        vectors = clustered(VectorCorpus(name, CORPUS_ROWS, profile.dimension, 1000), VECTORS)
        ids = [str(n) for n in range(CORPUS_ROWS)]
        documents = [f'{{"n":{n}}}' for n in range(CORPUS_ROWS)]
        write_index(folder, profile, vectors, ids, documents, plan=IndexPlan())
    return folder


def measure(name: str, rounds: int, count: int) -> Figures:
    """Measures one workload, by turns.

    Args:
        name: A key of `WORKLOADS`.
        rounds: Number of rounds.
        count: Number of items of one measurement in a round, a multiple of `BATCH`.
    """
    checkpoint = WORKLOADS[name].checkpoint()
    settings = Settings(checkpoint=checkpoint, index=make_index(checkpoint, name))
    by_way: dict[str, list[Figures]] = {}

    def take(way: str, run: Callable[[], Figures]) -> Figures:
        print(f"{name}: {way}", file=sys.stderr)
        figures = run()
        by_way.setdefault(way, []).append(figures)
        return figures

    with pipeline_process(name, callers.DISTINCT) as alone, TritonServer(settings) as server:

        def served(way: str, **options: float | bool) -> Figures:
            load: Figures = {"callers": CALLERS, "requests": count, **options}
            return take(way, lambda: callers.run_in_process(server.grpc_url, name, **load))

        for _ in range(rounds):
            take("in_process", lambda: {"items_per_s": round(alone.items_per_s(count), 2)})
            peak = served("served")["items_per_s"]
            if (
                count >= CALLERS * BATCH // 2
            ):  # with fewer items, most callers would have no request
                served("b32", items=BATCH, requests=count // BATCH)
            served("at_80", rate=SHARE_OF_PEAK * peak)
            served("search", search=True)
            served("one", callers=1, requests=count // 4)
    return {**{way: medians(rounds) for way, rounds in by_way.items()}, **ratios(by_way)}


def ratios(by_way: dict[str, list[Figures]]) -> Figures:
    """Returns the ratios between the measurements, each with its spread over the rounds."""
    rates = {way: [figures["items_per_s"] for figures in rounds] for way, rounds in by_way.items()}
    pairs = {
        "served_over_inprocess": (rates["served"], rates["in_process"]),
        "served_over_inprocess_b32": (rates.get("b32", []), rates["in_process"]),
        "search_over_embed": (rates["search"], rates["served"]),
        "p99_over_p50_at_80": tuple(
            [figures[key] for figures in by_way["at_80"]] for key in ("p99_ms", "p50_ms")
        ),
    }
    results: Figures = {}
    for key, (above, below) in pairs.items():
        if above:
            results |= ratio(key, above, below)
    return results


def table(name: str, results: Figures) -> str:
    """Returns the figures of one workload as a table."""
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
    options = parser.parse_args()
    pace = QUICK if options.quick else FULL
    names = [options.workload] if options.workload else list(WORKLOADS)
    with stop_on_signals():
        results = {name: measure(name, *pace[name]) for name in names}
    for name, figures in results.items():
        print(table(name, figures))
    params = {"rounds_and_items": pace, "callers": CALLERS}
    print_and_save("served", params, results, options.save)


if __name__ == "__main__":
    main()
