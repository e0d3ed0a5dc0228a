"""Runs Locust in processes of its own and watches it from this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.monitoring.sampler import Sample, Sampler
from benchmarks.load.monitoring.server import LoadTarget
from benchmarks.load.scenario import Scenario
from lensemble_contract.errors import InternalError

LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_START_S = 60.0
_END_S = 15.0
_KILL_S = 5.0
_POLL_S = 0.1
_LOG_LINES = 30


@dataclass(frozen=True, slots=True)
class LocustRun:
    """Measurements of one run of Locust.

    Attributes:
        began: When its clock started, in seconds since 1970.
        steps: Steps as `step_summary.summarize_steps` returns them.
        samples: Samples of the server taken during the run.
    """

    began: float
    steps: list[dict[str, Any]]
    samples: list[Sample]


def run_locust(
    scenario: Scenario, target: LoadTarget, out: Path, items: Path, workers: int
) -> LocustRun:
    """Runs Locust once.

    Args:
        scenario: Scenario with users or rates.
        target: Server that receives the load.
        out: Folder of Locust's log, its result, and the samples.
        items: File that `item_file` wrote.
        workers: Number of Locust processes.

    Raises:
        InternalError: Locust gave no result, or not that of all workers; the message contains the
            end of its log.
    """
    scenario_file, result_file = out / "scenario.json", out / "locust.json"
    scenario_file.write_text(scenario.model_dump_json(exclude_none=True))
    result_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["--scenario", str(scenario_file), "--items-file", str(items)]
    command += ["--result-file", str(result_file), "--host", target.url]
    command += ["--stop-timeout", f"{scenario.timeout_s + 5:g}"]
    command += ["--only-summary", "--exit-code-on-error", "0"]
    if workers > 1:
        command += ["--processes", str(workers)]
    end_s = LoadSchedule(scenario).end_s
    limit_s = end_s + scenario.timeout_s * 2 + _START_S
    sampler = Sampler(target.sources, min(scenario.watch_s, end_s / 10))
    with _locust(command, out / "locust.log") as process, sampler:
        target.sources.pids["locust"] = process.pid
        try:
            _wait(process, result_file, limit_s)
        finally:
            target.sources.pids.pop("locust")
    if not result_file.is_file():
        raise InternalError(
            f"Locust gave no result within {limit_s:g} s (status {process.returncode}); the end of "
            f"its log:\n{_log_end(out)}"
        )
    result = json.loads(result_file.read_text())
    if result["finished"] < workers:
        raise InternalError(
            f"{workers - result['finished']} of {workers} Locust processes died or still had "
            f"requests in flight at the end, so their figures would be missing; the end of the "
            f"log:\n{_log_end(out)}"
        )
    sampler.save(out / "samples.jsonl")
    return LocustRun(result["began"], result["steps"], sampler.samples)


@contextmanager
def _locust(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts Locust with its workers, and ends all of them when the block is left."""
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which then stops Locust
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_KILL_S)
                except subprocess.TimeoutExpired:
                    pass
            # A gRPC channel that is closed while calls are in flight can ignore SIGTERM for ever.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def _wait(process: subprocess.Popen[bytes], result_file: Path, limit_s: float) -> None:
    """Waits until Locust has ended: at most `limit_s`, and `_END_S` once its result exists."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline:
        if result_file.is_file():
            deadline = min(deadline, time.monotonic() + _END_S)
        time.sleep(_POLL_S)


def _log_end(out: Path) -> str:
    lines = (out / "locust.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
