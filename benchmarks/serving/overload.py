"""What a server answers and what it refuses when requests come at ten times its peak rate.

    python -m benchmarks.serving.overload [--quick] [--workload small|demo] [--times 10] [--save]

A closed loop of 32 callers measures the peak. Then requests come at random times (Poisson) at
`--times` the peak rate, whether or not earlier ones were answered; nothing is retried. Afterwards a
single caller sends requests until it is answered as fast as before. It ends with one line of JSON:
`goodput_over_peak`, `refused_p99_ms` (counted from the time at which the request was due),
`recovery_s`, `text` and `picture` with the counts and latencies of that kind, `growth_mib` of all
processes.
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
# The server has recovered when a single caller waits at most this many times its median before the
# burst.
_USUAL_FACTOR = 2.0
# Longest wait for the recovery.
_GIVE_UP_S = 60.0

Figures = dict[str, Any]


@dataclass(slots=True)
class BurstOutcome:
    """Outcome of the burst.

    Attributes:
        answered: Kind (`text` or `picture`) -> seconds from the due time to each answer.
        answered_during_burst: Number of requests that were answered before the burst ended.
        refused: Kind -> seconds from the due time to each refusal.
        errors: Class of error -> number of errors other than refusals.
        recovery_s: Seconds from the last request until a single caller was answered as usual.
    """

    answered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered_during_burst: int = 0
    refused: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    recovery_s: float = 0.0


def kind_of(item: Item) -> str:
    """Returns `picture` if the item has one, else `text`."""
    return "picture" if item.images else "text"


async def burst(
    url: str, items: list[Item], rate: float, seconds: float, text: str, within_s: float
) -> BurstOutcome:
    """Sends requests at a rate; then waits until a single caller is answered as fast as usual.

    Args:
        url: URL of the server.
        items: Items to send in order, again and again.
        rate: Requests per second.
        seconds: Seconds of the burst.
        text: Text of the single caller.
        within_s: Largest latency that counts as usual, in seconds.
    """
    outcome = BurstOutcome()
    count = round(rate * seconds)
    gaps = np.random.default_rng(0).exponential(1 / rate, size=count)
    async with (
        AsyncClient(url, timeout_s=TIMEOUT_S, retry=ONCE) as client,
        asyncio.TaskGroup() as tasks,
    ):
        began = time.perf_counter()
        end = began + seconds

        async def ask(item: Item, due: float) -> None:
            kind = kind_of(item)
            try:
                await client.embed(item.text, list(item.images) or None)
            except OverloadedError:
                outcome.refused[kind].append(time.perf_counter() - due)
            except LensembleError as error:
                outcome.errors[type(error).__name__] += 1
            else:
                now = time.perf_counter()
                outcome.answered[kind].append(now - due)
                outcome.answered_during_burst += now < end

        for number, due in enumerate(began + np.cumsum(gaps)):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(ask(items[number % len(items)], float(due)))
        # Requests that are still in flight are part of the load to recover from.
        outcome.recovery_s = await seconds_to_recover(client, text, within_s)
    return outcome


async def single_caller_latency(url: str, text: str, requests: int) -> float:
    """Returns the median seconds of that many requests of a single caller."""
    async with AsyncClient(url, timeout_s=TIMEOUT_S, retry=ONCE) as client:
        latencies = []
        for _ in range(requests):
            began = time.perf_counter()
            await client.embed(text)
            latencies.append(time.perf_counter() - began)
    return statistics.median(latencies)


async def seconds_to_recover(client: AsyncClient, text: str, within_s: float) -> float:
    """Returns the seconds until three requests in a row are answered within `within_s`.

    Raises:
        RuntimeError: They are still slow after `_GIVE_UP_S`.
    """
    began, fast_in_a_row = time.perf_counter(), 0
    while time.perf_counter() - began < _GIVE_UP_S:
        asked = time.perf_counter()
        try:
            await client.embed(text)
            is_fast = time.perf_counter() - asked <= within_s
            fast_in_a_row = fast_in_a_row + 1 if is_fast else 0
        except LensembleError:
            fast_in_a_row = 0
        if fast_in_a_row == 3:
            return asked - began
        await asyncio.sleep(0.05)
    raise RuntimeError(f"a single caller is still slow {_GIVE_UP_S:g} s after the burst")


def resident_mib(server: TritonServer) -> float:
    """Returns the resident memory of all processes of a server in MiB."""
    parent = psutil.Process(server.pid)
    rss = [process.memory_info().rss for process in (parent, *parent.children(recursive=True))]
    return float(sum(rss) / 2**20)


def measure(workload: str, times: float, seconds: float) -> Figures:
    """Measures one burst.

    Args:
        workload: A key of `WORKLOADS`.
        times: Rate of the burst, as a multiple of the peak.
        seconds: Seconds of the burst.
    """
    checkpoint = WORKLOADS[workload].checkpoint()
    items = WORKLOADS[workload].items("mixed", 600)
    text = next(item.text for item in items if not item.images and item.text)
    settings = Settings(checkpoint=checkpoint)
    with TritonServer(settings) as server:  # without a supervisor it refuses no request
        requests = {"demo": 4000, "small": 160}[workload]
        callers.run_in_process(server.grpc_url, workload, callers=CALLERS, requests=requests // 4)
        figures = callers.run_in_process(
            server.grpc_url, workload, callers=CALLERS, requests=requests
        )
        peak = figures["items_per_s"]
    with Supervisor(TritonServer(settings)) as up:
        url = up.server.grpc_url
        usual_s = asyncio.run(single_caller_latency(url, text, 20))
        before = resident_mib(up.server)
        print(f"peak {peak}/s, a single text takes {usual_s * 1000:.0f} ms; burst", file=sys.stderr)
        outcome = asyncio.run(
            burst(url, items, peak * times, seconds, text, _USUAL_FACTOR * usual_s)
        )
        grown = resident_mib(up.server) - before
        restarts = dict(up.state.restarts)
    refused = [seconds for of_kind in outcome.refused.values() for seconds in of_kind]
    answered = sum(map(len, outcome.answered.values()))
    return {
        "peak_items_per_s": peak,
        "offered_per_s": round(peak * times, 1),
        "goodput_over_peak": round(outcome.answered_during_burst / seconds / peak, 3),
        "answered": answered,
        "refused": len(refused),
        "errors": dict(outcome.errors),
        "refused_p50_ms": _ms(refused, 50),
        "refused_p99_ms": _ms(refused, 99),
        **{
            kind: {
                "answered": len(outcome.answered[kind]),
                "refused": len(outcome.refused[kind]),
                "p50_ms": _ms(outcome.answered[kind], 50),
                "p99_ms": _ms(outcome.answered[kind], 99),
            }
            for kind in ("text", "picture")
        },
        "recovery_s": round(outcome.recovery_s, 2),
        "growth_mib": round(grown),
        "restarts": restarts,
    }


def _ms(seconds: list[float], percentile: float) -> float | None:
    return round(float(np.percentile(seconds, percentile)) * 1000, 1) if seconds else None


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a burst of ten seconds")
    parser.add_argument("--workload", choices=WORKLOADS, default="small")
    parser.add_argument("--times", type=float, default=10.0, help="rate as a multiple of the peak")
    parser.add_argument("--save", action="store_true", help="write results/overload-WORKLOAD.json")
    options = parser.parse_args()
    seconds = 10.0 if options.quick else 60.0
    with stop_on_signals():
        results = measure(options.workload, options.times, seconds)
    params = {"times": options.times, "seconds": seconds}
    print_and_save(f"overload-{options.workload}", params, results, options.save)


if __name__ == "__main__":
    main()
