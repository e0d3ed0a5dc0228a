"""Ten times what the server can do, for a while: what is answered, what refused, what after?

    python -m benchmarks.serving.overload [--quick] [--workload small|demo] [--times 10] [--save]

A closed loop of 32 callers finds the peak. Then requests come at random moments (Poisson),
`--times` as many a second, whether or not earlier ones were answered; nobody tries again.
Afterwards one caller asks until it is answered as soon as before. Ends with one line of JSON:
`goodput_over_peak`, `refused_p99_ms` (a refusal counts from the moment at which the request was
due), `recovery_s`, `text` and `picture` with their own latencies, `growth_mib` of all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from benchmarks.common.results import print_and_save
from benchmarks.common.workloads import WORKLOADS
from benchmarks.serving import callers
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Item, Retry
from lensemble_contract.errors import LensembleError, OverloadedError

CALLERS = 32
TIMEOUT_S = 30.0
ONCE = Retry(tries=1)
_AGAIN = 2.0
"""Times its earlier median that a lone caller may wait for the burst to be over."""
_GIVE_UP_S = 60.0

Figures = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """What came of the burst.

    Attributes:
        answered: Kind (`text` or `picture`) -> seconds from when a request was due.
        during: Requests answered before the burst ended.
        refused: Seconds until each refusal.
        errors: Class -> how often, refusals aside.
        recovery_s: After the last request was sent, until a lone caller was answered as usual.
    """

    answered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    during: int = 0
    refused: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    recovery_s: float = 0.0


def kind_of(item: Item) -> str:
    """`picture` if it has any."""
    return "picture" if item.images else "text"


async def burst(
    url: str, items: list[Item], rate: float, seconds: float, text: str, within_s: float
) -> Seen:
    """Sends at a rate, whatever comes back; then sees when a lone caller is served as usual.

    Args:
        url: Of the server.
        items: Sent over and over.
        rate: Requests a second.
        seconds: For how long.
        text: That the lone caller sends.
        within_s: In which it is answered as usual.
    """
    seen = Seen()
    count = round(rate * seconds)
    gaps = np.random.default_rng(0).exponential(1 / rate, size=count)
    async with (
        AsyncClient(url, timeout_s=TIMEOUT_S, retry=ONCE) as client,
        asyncio.TaskGroup() as requests,
    ):
        began = time.perf_counter()
        end = began + seconds

        async def ask(item: Item, due: float) -> None:
            kind = kind_of(item)
            try:
                await client.embed(item.text, list(item.images) or None)
            except OverloadedError:
                seen.refused[kind].append(time.perf_counter() - due)
            except LensembleError as error:
                seen.errors[type(error).__name__] += 1
            else:
                now = time.perf_counter()
                seen.answered[kind].append(now - due)
                seen.during += now < end

        for number, due in enumerate(began + np.cumsum(gaps)):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            requests.create_task(ask(items[number % len(items)], float(due)))
        # What is still under way is part of what there is to recover from.
        seen.recovery_s = await recovered(client, text, within_s)
    return seen


async def lone(url: str, text: str, times: int) -> float:
    """Median seconds of one caller's requests."""
    async with AsyncClient(url, timeout_s=TIMEOUT_S, retry=ONCE) as client:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await client.embed(text)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def recovered(client: AsyncClient, text: str, within_s: float) -> float:
    """Seconds until a lone caller is answered within so many, three times in a row."""
    began, sound = time.perf_counter(), 0
    while time.perf_counter() - began < _GIVE_UP_S:
        asked = time.perf_counter()
        try:
            await client.embed(text)
            sound = sound + 1 if time.perf_counter() - asked <= within_s else 0
        except LensembleError:
            sound = 0
        if sound == 3:
            return asked - began
        await asyncio.sleep(0.05)
    raise RuntimeError(f"a lone caller still waits {_GIVE_UP_S:g} s after the burst")


def resident(server: TritonServer) -> float:
    """MiB of all its processes."""
    first = psutil.Process(server.pid)
    rss = [one.memory_info().rss for one in (first, *first.children(recursive=True))]
    return float(sum(rss) / 2**20)


def measure(workload: str, times: float, seconds: float) -> Figures:
    """One burst.

    Args:
        workload: A key of `WORKLOADS`.
        times: The peak's.
        seconds: Of the burst.
    """
    checkpoint = WORKLOADS[workload].checkpoint()
    items = WORKLOADS[workload].items("mixed", 600)
    text = next(item.text for item in items if not item.images and item.text)
    settings = Settings(checkpoint=checkpoint)
    with TritonServer(settings) as server:  # without a supervisor it refuses nobody
        requests = {"demo": 4000, "small": 160}[workload]
        callers.run(server.grpc_url, workload, callers=CALLERS, requests=requests // 4)
        found = callers.run(server.grpc_url, workload, callers=CALLERS, requests=requests)
        peak = found["items_per_s"]
    with Supervisor(TritonServer(settings)) as up:
        url = up.server.grpc_url
        usual = asyncio.run(lone(url, text, 20))
        before = resident(up.server)
        print(f"peak {peak}/s, a lone text {usual * 1000:.0f} ms; burst", file=sys.stderr)
        seen = asyncio.run(burst(url, items, peak * times, seconds, text, _AGAIN * usual))
        grown = resident(up.server) - before
        restarts = dict(up.state.restarts)
    refused = [one for every in seen.refused.values() for one in every]
    answered = sum(map(len, seen.answered.values()))
    return {
        "peak_items_per_s": peak,
        "offered_per_s": round(peak * times, 1),
        "goodput_over_peak": round(seen.during / seconds / peak, 3),
        "answered": answered,
        "refused": len(refused),
        "errors": dict(seen.errors),
        "refused_p50_ms": _ms(refused, 50),
        "refused_p99_ms": _ms(refused, 99),
        **{
            kind: {
                "answered": len(seen.answered[kind]),
                "refused": len(seen.refused[kind]),
                "p50_ms": _ms(seen.answered[kind], 50),
                "p99_ms": _ms(seen.answered[kind], 99),
            }
            for kind in ("text", "picture")
        },
        "recovery_s": round(seen.recovery_s, 2),
        "growth_mib": round(grown),
        "restarts": restarts,
    }


def _ms(seconds: list[float], percentile: float) -> float | None:
    return round(float(np.percentile(seconds, percentile)) * 1000, 1) if seconds else None


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ten seconds")
    parser.add_argument("--workload", choices=WORKLOADS, default="small")
    parser.add_argument("--times", type=float, default=10.0, help="the peak's")
    parser.add_argument("--save", action="store_true", help="write results/overload-WORKLOAD.json")
    given = parser.parse_args()
    seconds = 10.0 if given.quick else 60.0
    with stop_on_signals():
        results = measure(given.workload, given.times, seconds)
    params = {"times": given.times, "seconds": seconds}
    print_and_save(f"overload-{given.workload}", params, results, given.save)


if __name__ == "__main__":
    main()
