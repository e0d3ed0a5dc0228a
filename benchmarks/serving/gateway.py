"""The cost of the gateway compared with gRPC, and the gain of `embed_many` over single calls.

    python -m benchmarks.serving.gateway [--quick] [--save]

Callers send short texts in a closed loop, from a process of their own on the same cores as the
server. All paths take turns in every round, and a ratio is the median of the ratios of each round.
There are two models: `tiny` with random weights, and `emoji`, that of the demo.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.random_checkpoint import random_serving_checkpoint
from benchmarks.common.results import print_and_save
from benchmarks.common.timing import format_ratios, medians, ratio
from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings

CALLERS = (1, 16, 64)
# Rounds, and seconds of each path in a round.
_FULL = (3, 2.0)
_QUICK = (2, 1.0)

Figures = dict[str, Any]


def run_callers(way: str, url: str, callers: int, seconds: float) -> Figures:
    """Returns the figures of callers over one path, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.serving.gateway_callers", way, url]
    completed = subprocess.run(
        [*command, str(callers), str(seconds)], capture_output=True, text=True, check=True
    )
    figures: Figures = json.loads(completed.stdout)
    return figures


def ratios_of(name: str, above: list[Figures], below: list[Figures], key: str) -> Figures:
    """Returns the median, smallest and largest ratio of a figure over the rounds."""
    return ratio(name, [figures[key] for figures in above], [figures[key] for figures in below])


def measure(checkpoint: Path, rounds: int, seconds: float) -> Figures:
    """Measures all paths to one model."""
    by_path: dict[tuple[str, int], list[Figures]] = {}
    with (
        TritonServer(Settings(checkpoint=checkpoint)) as triton,
        GatewayServer(
            GatewaySettings(
                triton=triton.grpc_url, metrics=triton.metrics_url, port=0, access_log=False
            )
        ) as gateway,
    ):
        urls = {"grpc": triton.grpc_url, "gateway": gateway.url}
        urls |= {"embed_many": triton.grpc_url, "gateway_many": gateway.url}
        paths = [(way, callers) for callers in CALLERS for way in ("grpc", "gateway")]
        paths += [("embed_many", 1), ("gateway_many", 1)]
        for number in range(rounds):
            for way, callers in paths:
                print(f"round {number + 1} of {rounds}: {way}, {callers} callers", file=sys.stderr)
                figures = run_callers(way, urls[way], callers, seconds)
                by_path.setdefault((way, callers), []).append(figures)
    results: Figures = {
        f"{way}_{callers}": medians(figures) for (way, callers), figures in by_path.items()
    }
    for callers in CALLERS:
        grpc, gate = by_path["grpc", callers], by_path["gateway", callers]
        results |= ratios_of(f"gateway_over_grpc_throughput_{callers}", gate, grpc, "items_per_s")
        results |= ratios_of(f"gateway_over_grpc_p50_{callers}", gate, grpc, "p50_ms")
    loop = by_path["grpc", 1]
    results |= ratios_of("embed_many_over_loop", by_path["embed_many", 1], loop, "items_per_s")
    results |= ratios_of("gateway_many_over_loop", by_path["gateway_many", 1], loop, "items_per_s")
    return results


def table(name: str, results: Figures) -> str:
    """Returns the figures of one model as a table."""
    lines = [f"{name:22} {'items/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'client CPU ms/item':>19}"]
    for way, figures in results.items():
        if isinstance(figures, dict):
            lines.append(
                f"  {way:20} {figures['items_per_s']:9.1f} {figures['p50_ms']:9.2f} "
                f"{figures['p99_ms']:9.2f} {figures['client_cpu_ms_per_item']:19.3f}"
            )
    return "\n".join([*lines, *format_ratios(results)])


def main() -> None:
    """Prints tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/gateway.json")
    options = parser.parse_args()
    rounds, seconds = _QUICK if options.quick else _FULL
    with stop_on_signals():
        models = {"tiny": random_serving_checkpoint(), "emoji": Path("demo/checkpoint")}
        results = {name: measure(folder, rounds, seconds) for name, folder in models.items()}
    for name, figures in results.items():
        print(table(name, figures))
    tiny, emoji = results["tiny"], results["emoji"]
    keys: Figures = {
        "gateway_over_grpc_throughput": tiny["gateway_over_grpc_throughput_64"],
        "embed_many_over_loop": tiny["embed_many_over_loop"],
        "gateway_over_grpc_throughput_emoji": emoji["gateway_over_grpc_throughput_64"],
        "embed_many_over_loop_emoji": emoji["embed_many_over_loop"],
    }
    params = {"rounds": rounds, "seconds": seconds, "callers": CALLERS}
    print_and_save("gateway", params, {**results, **keys}, options.save)


if __name__ == "__main__":
    main()
