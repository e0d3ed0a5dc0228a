"""Callers of the server in a process of their own: closed loop, or at a fixed rate.

    python -m benchmarks.serving.callers grpc://127.0.0.1:8001 --workload demo --callers 32
    python -m benchmarks.serving.callers grpc://127.0.0.1:8001 --workload demo --rate 80

A fixed number of requests, from the first one to the last answer. In a closed loop a caller asks
again as soon as it is answered. At a fixed rate requests come at random moments (Poisson), however
slow the server is, and latency counts from the moment that a request was due. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from benchmarks.common.workloads import MIXES, WORKLOADS
from lensemble_client import AsyncClient, Item, LensembleError, calls

DISTINCT = 600
"""Items; their files are in memory before the clock starts."""

Figures = dict[str, Any]
Ask = Callable[[int], Awaitable[int]]


class Tally:
    """What came back, and how long it took."""

    def __init__(self) -> None:
        self.began, self.cpu = time.perf_counter(), _cpu_s()
        self.seconds: list[float] = []
        self.items = self.failed = 0

    async def ask(self, ask: Ask, number: int, due: float) -> None:
        """Asks once; `due` is the moment from which latency counts."""
        try:
            found = await ask(number)  # before `+=` reads what others add to meanwhile
            self.items += found
        except LensembleError:
            self.failed += 1
        self.seconds.append(time.perf_counter() - due)

    def figures(self) -> Figures:
        """Up to now."""
        taken = time.perf_counter() - self.began
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        return {
            "items_per_s": round(self.items / taken, 2),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "requests": len(self.seconds),
            "failed": self.failed,
            "cpu_ms_per_item": round((_cpu_s() - self.cpu) / max(1, self.items) * 1000, 3),
        }


async def closed(ask: Ask, callers: int, requests: int) -> Figures:
    """Figures of callers that wait for their answer and ask again."""
    tally, numbers = Tally(), iter(range(requests))

    async def caller() -> None:
        for number in numbers:  # one iterator for all callers
            await tally.ask(ask, number, time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(callers)))
    return tally.figures()


async def at_rate(ask: Ask, rate: float, requests: int) -> Figures:
    """Figures of requests that come `rate` times a second at random moments."""
    gaps = np.random.default_rng(0).exponential(1 / rate, size=requests)
    tally = Tally()
    async with asyncio.TaskGroup() as tasks:
        for number, due in enumerate(tally.began + np.cumsum(gaps)):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(tally.ask(ask, number, float(due)))
    return tally.figures()


async def load(url: str, given: argparse.Namespace) -> Figures:
    """Makes the items, warms up, measures."""
    items = WORKLOADS[given.workload].items(given.mix, DISTINCT)
    async with AsyncClient(url) as client:

        async def one(number: int) -> int:
            item = items[number % len(items)]
            if given.search:
                return bool(await client.search(item.text, item.images or None))
            return int((await client.embed(item.text, item.images or None)).ndim)

        async def many(number: int) -> int:
            start = number * given.items % len(items)
            batch: list[Item] = [items[(start + n) % len(items)] for n in range(given.items)]
            vectors = await client.run(calls.embed(batch, None))
            return len(vectors)

        ask = one if given.items == 1 else many
        await closed(ask, given.callers, min(given.callers, given.requests))  # connections, caches
        if given.rate:
            return await at_rate(ask, given.rate, given.requests)
        return await closed(ask, given.callers, given.requests)


def run(url: str, workload: str, **options: float | str | bool) -> Figures:
    """`load` in a process of its own.

    Args:
        url: Of the server.
        workload: A key of `WORKLOADS`.
        **options: As on the command line.
    """
    command = [sys.executable, "-m", "benchmarks.serving.callers", url, "--workload", workload]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(ran.stdout)
    return figures


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--workload", choices=WORKLOADS, default="demo")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, open loop")
    parser.add_argument("--items", type=int, default=1, help="in one request")
    parser.add_argument("--search", action="store_true", help="search instead of embed")
    parser.add_argument("--requests", type=int, default=600)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(load(given.url, given))))


if __name__ == "__main__":
    main()
