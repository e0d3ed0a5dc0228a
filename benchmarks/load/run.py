"""One run: items, server, Locust in processes of its own, and everything measured put together."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from benchmarks.load.generator import measured
from benchmarks.load.report import soak
from benchmarks.load.report.limits import failures
from benchmarks.load.report.outcome import Outcome
from benchmarks.load.report.tally import ALL
from benchmarks.load.scenario import Scenario, Soak
from benchmarks.load.users.connections import check_url
from benchmarks.load.users.corpus import INDEX, read
from benchmarks.load.watch import processes
from benchmarks.load.watch.served import Target, running
from benchmarks.load.watch.watch import Watched, between
from lensemble_client.connection import address
from lensemble_contract.errors import InternalError


def run(
    scenario: Scenario,
    out: Path,
    *,
    url: str | None = None,
    triton: str | None = None,
    workers: int = 1,
) -> Outcome:
    """Runs a scenario.

    Args:
        scenario: What to do.
        out: Folder for items, samples and Locust's log.
        url: A server that runs already; None starts one.
        triton: Where that one's statistics are; None takes `url`, if it is Triton's.
        workers: Locust processes.

    Raises:
        LensembleError: A URL cannot be used, the server did not start, or Locust failed; not of
            limits.
    """
    if url is not None:
        check_url(scenario.protocol, url)
    if triton is not None:
        address(triton)
    out.mkdir(parents=True, exist_ok=True)
    items = out / "items.jsonl"
    checkpoint = _items(scenario, out, items)
    if url is not None:
        there = triton or (url if scenario.protocol != "gateway" else None)
        where: AbstractContextManager[Target] = nullcontext(
            Target(url, Watched(there), "not started by this run")
        )
    else:
        where = running(scenario, checkpoint, read(items).get(INDEX, []))
    with where as target:
        about = {"server": target.version, "workers": workers, **processes.machine()}
        shares = scenario.shares
        if shares:
            peak = _peak(scenario, target, out, items, workers)
            about["peak_requests_per_s"] = peak
            rates = [round(share * peak, 3) for share in shares]
            scenario = scenario.changed(shares=(), rates=rates)
            if scenario.soak is not None and scenario.soak.burst_share:
                _burst(scenario, scenario.soak, peak, target, out, items, workers)
        began, steps, samples = measured(scenario, target, out, items, workers)
    for number, step in enumerate(steps):
        step["server"] = between(samples, began + step["from_s"], began + step["to_s"])
        if shares:
            step["share"] = shares[number]
    # Of a server that this run did not start, the processes cannot be seen.
    judge = scenario.soak is not None and url is None
    grown = soak.judged(scenario, samples, began) if judge else None
    failed = [*failures(scenario, steps), *soak.failures(grown)]
    return Outcome(scenario, steps, about, failed, grown)


def _items(scenario: Scenario, out: Path, file: Path) -> Path:
    """Has the items made; gives the checkpoint's folder."""
    said = out / "scenario.json"
    said.write_text(scenario.model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "benchmarks.load.users.corpus", str(said), str(file)]
    print(f"load: making the items of {scenario.name}", file=sys.stderr)
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise InternalError(f"the items could not be made (status {ran.returncode})")
    return Path(ran.stdout.splitlines()[-1])


def _peak(scenario: Scenario, target: Target, out: Path, items: Path, workers: int) -> float:
    """Requests per second of a short closed loop."""
    closed = scenario.changed(
        loop="closed",
        users=(scenario.peak.users,),
        shares=(),
        seconds=scenario.peak.seconds,
        soak=None,
        rest_s=0.0,
    )
    print(f"load: the peak, with {scenario.peak.users} users", file=sys.stderr)
    _, (step,), _ = measured(closed, target, out, items, workers)
    found = float(step["kinds"][ALL]["requests_per_s"])
    if not found:
        raise InternalError(f"nothing was answered while the peak was measured: {step['kinds']}")
    return found


def _burst(
    scenario: Scenario,
    how: Soak,
    peak: float,
    target: Target,
    out: Path,
    items: Path,
    workers: int,
) -> None:
    """More requests than the server can do, of which nothing is reported."""
    rate = round(how.burst_share * peak, 3)
    crowd = scenario.changed(rates=(rate,), seconds=how.burst_s, soak=None, rest_s=0.0)
    print(f"load: a burst of {rate:g} requests per second", file=sys.stderr)
    measured(crowd, target, out, items, workers)
