"""Callers of the server in a process of their own: a closed loop, or a fixed rate.

    python -m benchmarks.serving.callers grpc://127.0.0.1:8001 --workload demo --callers 32
    python -m benchmarks.serving.callers grpc://127.0.0.1:8001 --workload demo --rate 80

They send a fixed number of requests and measure until the last answer. In a closed loop a caller
sends the next request once the last one was answered. At a fixed rate requests come at random times
(Poisson), however slow the server is, and latency counts from the time at which a request was due.
It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from benchmarks.common.workloads import MIXES, WORKLOADS
from lensemble_client import AsyncClient, Item, LensembleError, calls

# Number of different items; their files are in memory before the clock starts.
DISTINCT = 600

Figures = dict[str, Any]
Ask = Callable[[int], Awaitable[int]]


class CallStatistics:
    """Counts and latencies of calls, from its construction on."""

    def __init__(self) -> None:
        self.began, self.cpu = time.perf_counter(), time.process_time()
        self.seconds: list[float] = []
        self.items = self.failed = 0

    async def call(self, ask: Ask, number: int, due: float) -> None:
        """Makes one call; its latency counts from `due`."""
        try:
            count = await ask(number)  # a separate line: `+=` would read `items` before the wait
            self.items += count
        except LensembleError:
            self.failed += 1
        self.seconds.append(time.perf_counter() - due)

    def figures(self) -> Figures:
        """Returns the figures up to now."""
        elapsed = time.perf_counter() - self.began
        cpu_s = time.process_time() - self.cpu
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        return {
            "items_per_s": round(self.items / elapsed, 2),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "requests": len(self.seconds),
            "failed": self.failed,
            "cpu_ms_per_item": round(cpu_s / max(1, self.items) * 1000, 3),
        }


async def closed_loop(ask: Ask, callers: int, requests: int) -> Figures:
    """Returns the figures of callers that send the next request once the last was answered."""
    statistics, numbers = CallStatistics(), iter(range(requests))

    async def caller() -> None:
        for number in numbers:  # one iterator for all callers
            await statistics.call(ask, number, time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(callers)))
    return statistics.figures()


async def at_rate(ask: Ask, rate: float, requests: int) -> Figures:
    """Returns the figures of requests at random times, `rate` per second."""
    gaps = np.random.default_rng(0).exponential(1 / rate, size=requests)
    statistics = CallStatistics()
    async with asyncio.TaskGroup() as tasks:
        for number, due in enumerate(statistics.began + np.cumsum(gaps)):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(statistics.call(ask, number, float(due)))
    return statistics.figures()


async def run_callers(url: str, options: argparse.Namespace) -> Figures:
    """Makes the items, warms up, and measures."""
    items = WORKLOADS[options.workload].items(options.mix, DISTINCT)
    async with AsyncClient(url) as client:

        async def single(number: int) -> int:
            item = items[number % len(items)]
            if options.search:
                return bool(await client.search(item.text, item.images or None))
            return int((await client.embed(item.text, item.images or None)).ndim)

        async def batch_of(number: int) -> int:
            start = number * options.items % len(items)
            batch: list[Item] = [items[(start + n) % len(items)] for n in range(options.items)]
            vectors = await client.run(calls.embed(batch, None))
            return len(vectors)

        ask = single if options.items == 1 else batch_of
        await closed_loop(
            ask, options.callers, min(options.callers, options.requests)
        )  # opens connections, fills caches
        if options.rate:
            return await at_rate(ask, options.rate, options.requests)
        return await closed_loop(ask, options.callers, options.requests)


def run_in_process(url: str, workload: str, **options: float | str | bool) -> Figures:
    """Runs the callers in a process of their own, and returns their figures.

    Args:
        url: URL of the server.
        workload: A key of `WORKLOADS`.
        **options: Options of the command line.
    """
    command = [sys.executable, "-m", "benchmarks.serving.callers", url, "--workload", workload]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(completed.stdout)
    return figures


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--workload", choices=WORKLOADS, default="demo")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests per second, in an open loop"
    )
    parser.add_argument("--items", type=int, default=1, help="items in one request")
    parser.add_argument("--search", action="store_true", help="search instead of embed")
    parser.add_argument("--requests", type=int, default=600)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run_callers(options.url, options))))


if __name__ == "__main__":
    main()
