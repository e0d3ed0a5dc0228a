"""Runs one scenario: makes the items, starts the server, runs Locust, and combines the results."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.locust_process import LocustRun, run_locust
from benchmarks.load.monitoring import processes
from benchmarks.load.monitoring.sampler import SampleSources, usage_between
from benchmarks.load.monitoring.server import LoadTarget, running_server
from benchmarks.load.report import soak
from benchmarks.load.report.limits import find_failures
from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.report.run_result import RunResult
from benchmarks.load.scenario import Scenario, Soak
from benchmarks.load.users.item_file import INDEX, read_items
from benchmarks.load.users.triton_connection import check_url
from lensemble_client.connection import split_url
from lensemble_contract.errors import InternalError


@dataclass(frozen=True, slots=True)
class _Load:
    """Everything that the Locust runs of one scenario share."""

    target: LoadTarget
    out: Path
    items: Path
    workers: int

    def run(self, scenario: Scenario) -> LocustRun:
        return run_locust(scenario, self.target, self.out, self.items, self.workers)


def run_scenario(
    scenario: Scenario,
    out: Path,
    *,
    url: str | None = None,
    triton: str | None = None,
    workers: int = 1,
) -> RunResult:
    """Runs a scenario.

    Args:
        scenario: The scenario.
        out: Folder for items, samples and Locust's log.
        url: URL of a server that is already running; None starts one.
        triton: URL of that server's statistics; None uses `url`, if it is Triton's.
        workers: Number of Locust processes.

    Returns:
        The result, whether or not its limits were met.

    Raises:
        LensembleError: A URL cannot be used, the server did not start, or Locust failed.
    """
    if url is not None:
        check_url(scenario.protocol, url)
    if triton is not None:
        split_url(triton)
    out.mkdir(parents=True, exist_ok=True)
    items = out / "items.jsonl"
    checkpoint = _make_items(scenario, out, items)
    if url is not None:
        statistics_url = triton or (url if scenario.protocol != "gateway" else None)
        server: AbstractContextManager[LoadTarget] = nullcontext(
            LoadTarget(url, SampleSources(statistics_url), "not started by this run")
        )
    else:
        server = running_server(scenario, checkpoint, read_items(items).get(INDEX, []))
    with server as target:
        load = _Load(target, out, items, workers)
        about = {"server": target.version, "workers": workers, **processes.machine()}
        shares = scenario.shares
        if shares:
            peak = _measure_peak(scenario, load)
            about["peak_requests_per_s"] = peak
            rates = [round(share * peak, 3) for share in shares]
            scenario = scenario.changed(shares=(), rates=rates)
            if scenario.soak is not None and scenario.soak.burst_share:
                _send_burst(scenario, scenario.soak, peak, load)
        run = load.run(scenario)
    steps = run.steps
    for number, step in enumerate(steps):
        step["server"] = usage_between(
            run.samples, run.began + step["from_s"], run.began + step["to_s"]
        )
        if shares:
            step["share"] = shares[number]
    # The processes of a server that this run did not start cannot be seen.
    growths = None
    if scenario.soak is not None and url is None:
        growths = soak.measure_growth(scenario, run.samples, run.began)
    failed = [*find_failures(scenario, steps), *soak.find_failures(growths)]
    return RunResult(scenario, steps, about, failed, growths)


def _make_items(scenario: Scenario, out: Path, file: Path) -> Path:
    """Writes the items in a process of its own; returns the folder of the checkpoint."""
    scenario_file = out / "scenario.json"
    scenario_file.write_text(scenario.model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "benchmarks.load.users.item_file"]
    print(f"load: making the items of {scenario.name}", file=sys.stderr)
    completed = subprocess.run(
        [*command, str(scenario_file), str(file)], stdout=subprocess.PIPE, text=True
    )
    if completed.returncode:
        raise InternalError(f"the items could not be made (status {completed.returncode})")
    return Path(completed.stdout.splitlines()[-1])


def _measure_peak(scenario: Scenario, load: _Load) -> float:
    """Returns the requests per second that a short closed loop reaches."""
    closed_loop = scenario.changed(
        loop="closed",
        users=(scenario.peak.users,),
        shares=(),
        seconds=scenario.peak.seconds,
        soak=None,
        rest_s=0.0,
    )
    print(f"load: measuring the peak with {scenario.peak.users} users", file=sys.stderr)
    (step,) = load.run(closed_loop).steps
    peak = float(step["kinds"][ALL]["requests_per_s"])
    if not peak:
        raise InternalError(f"nothing was answered while the peak was measured: {step['kinds']}")
    return peak


def _send_burst(scenario: Scenario, settings: Soak, peak: float, load: _Load) -> None:
    """Sends more requests than the server can answer; nothing of it is reported."""
    rate = round(settings.burst_share * peak, 3)
    burst = scenario.changed(rates=(rate,), seconds=settings.burst_s, soak=None, rest_s=0.0)
    print(f"load: a burst of {rate:g} requests per second", file=sys.stderr)
    load.run(burst)
