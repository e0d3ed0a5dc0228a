"""What the gateway costs over gRPC, and what `embed_many` saves over a loop of single calls.

    python -m benchmarks.serving.gateway [--quick] [--save]

Short texts, each caller in a closed loop, in a process of its own beside the server on the same
cores. The ways take turns in every round; a ratio is of one round, then the median of all. Two
models: `tiny`, with random weights, and `emoji`, the demo's.
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
_FULL = (3, 2.0)
_QUICK = (2, 1.0)
"""Rounds, and seconds of each way in a round."""

Figures = dict[str, Any]


def run(way: str, url: str, callers: int, seconds: float) -> Figures:
    """One way under load, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving.gateway_callers", way, url]
    ran = subprocess.run(
        [*command, str(callers), str(seconds)], capture_output=True, text=True, check=True
    )
    figures: Figures = json.loads(ran.stdout)
    return figures


def ratios(name: str, above: list[Figures], below: list[Figures], key: str) -> Figures:
    """Median of the rounds' own ratios, and the least and the most of them."""
    return ratio(name, [one[key] for one in above], [one[key] for one in below])


def measure(checkpoint: Path, rounds: int, seconds: float) -> Figures:
    """All ways to one model."""
    found: dict[tuple[str, int], list[Figures]] = {}
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
        plan = [(way, callers) for callers in CALLERS for way in ("grpc", "gateway")]
        plan += [("embed_many", 1), ("gateway_many", 1)]
        for number in range(rounds):
            for way, callers in plan:
                print(f"round {number + 1} of {rounds}: {way}, {callers} callers", file=sys.stderr)
                figures = run(way, urls[way], callers, seconds)
                found.setdefault((way, callers), []).append(figures)
    results: Figures = {
        f"{way}_{callers}": medians(figures) for (way, callers), figures in found.items()
    }
    for callers in CALLERS:
        grpc, gate = found["grpc", callers], found["gateway", callers]
        results |= ratios(f"gateway_over_grpc_throughput_{callers}", gate, grpc, "items_per_s")
        results |= ratios(f"gateway_over_grpc_p50_{callers}", gate, grpc, "p50_ms")
    loop = found["grpc", 1]
    results |= ratios("embed_many_over_loop", found["embed_many", 1], loop, "items_per_s")
    results |= ratios("gateway_many_over_loop", found["gateway_many", 1], loop, "items_per_s")
    return results


def table(name: str, results: Figures) -> str:
    """The figures of one model for people."""
    lines = [f"{name:22} {'items/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'client CPU ms/item':>19}"]
    for way, one in results.items():
        if isinstance(one, dict):
            lines.append(
                f"  {way:20} {one['items_per_s']:9.1f} {one['p50_ms']:9.2f} {one['p99_ms']:9.2f} "
                f"{one['client_cpu_ms_per_item']:19.3f}"
            )
    return "\n".join([*lines, *format_ratios(results)])


def main() -> None:
    """Prints tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/gateway.json")
    given = parser.parse_args()
    rounds, seconds = _QUICK if given.quick else _FULL
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
    print_and_save("gateway", params, {**results, **keys}, given.save)


if __name__ == "__main__":
    main()
