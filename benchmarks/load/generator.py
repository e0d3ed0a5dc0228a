"""Locust in processes of its own, watched from this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load.plan import Plan
from benchmarks.load.report.step_figures import Figures
from benchmarks.load.scenario import Scenario
from benchmarks.load.watch.served import Target
from benchmarks.load.watch.watch import Watch
from lensemble_contract.errors import InternalError

LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_START_S = 60.0
_END_S = 15.0
_KILL_S = 5.0
_POLL_S = 0.1
_LOG_LINES = 30


def measured(
    scenario: Scenario, target: Target, out: Path, items: Path, workers: int
) -> tuple[float, list[Figures], list[dict[str, Any]]]:
    """Runs Locust once.

    Args:
        scenario: With users or rates.
        target: Where the load goes.
        out: Folder of Locust's log, its result, and the samples.
        items: What `corpus` wrote.
        workers: Locust processes.

    Returns:
        When its clock began (seconds since 1970), the steps as `outcome.figures` gives them, and
        what was seen of the server meanwhile.

    Raises:
        InternalError: There was no result, or not of all workers; the message has the log's end.
    """
    said, result = out / "scenario.json", out / "locust.json"
    said.write_text(scenario.model_dump_json(exclude_none=True))
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["--scenario", str(said), "--items-file", str(items), "--result-file", str(result)]
    command += ["--host", target.url, "--stop-timeout", f"{scenario.timeout_s + 5:g}"]
    command += ["--only-summary", "--exit-code-on-error", "0"]
    if workers > 1:
        command += ["--processes", str(workers)]
    limit_s = Plan(scenario).end_s + scenario.timeout_s * 2 + _START_S
    watch = Watch(target.watched, min(scenario.watch_s, Plan(scenario).end_s / 10))
    with _locust(command, out / "locust.log") as process, watch:
        target.watched.pids["locust"] = process.pid
        try:
            _wait(process, result, limit_s)
        finally:
            target.watched.pids.pop("locust")
    if not result.is_file():
        raise InternalError(
            f"Locust gave no result within {limit_s:g} s (status {process.returncode}); its log's "
            f"end:\n{_tail(out)}"
        )
    found = json.loads(result.read_text())
    if found["finished"] < workers:
        raise InternalError(
            f"{workers - found['finished']} of {workers} Locust processes died or still had "
            f"requests under way in the end, so that figures would lack theirs; the log's end:\n"
            f"{_tail(out)}"
        )
    watch.save(out / "samples.jsonl")
    return found["began"], found["steps"], watch.samples


@contextmanager
def _locust(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Locust with its workers; none of them is there afterwards."""
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops it
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
            # A gRPC channel that is closed with calls under way can ignore SIGTERM for ever.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def _wait(process: subprocess.Popen[bytes], result: Path, limit_s: float) -> None:
    """Waits until Locust has ended; not for ever once its result is there, nor without one."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline:
        if result.is_file():
            deadline = min(deadline, time.monotonic() + _END_S)
        time.sleep(_POLL_S)


def _tail(out: Path) -> str:
    lines = (out / "locust.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
