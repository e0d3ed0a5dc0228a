"""A command with a limit, and every process that it started."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.gpu.command import processes
from benchmarks.gpu.command.processes import TIMED_OUT, run_limited
from tests.waiting import until


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_and_status_of_a_command(tmp_path):
    lines: list[str] = []
    code = "import os, sys; print(os.getcwd()); print('bad', file=sys.stderr); sys.exit(3)"
    status = run_limited(
        [sys.executable, "-c", code], os.environ, 60, lines.append, folder=tmp_path
    )
    assert status == 3
    assert sorted(lines) == sorted([str(tmp_path), "bad"])


def test_command_is_ended_at_its_limit():
    assert run_limited(["sleep", "1000"], os.environ, 0.05, print, grace_s=5) == TIMED_OUT


def test_command_is_first_told_to_end(monkeypatch):
    """It can stop its server; only then is it killed."""
    lines: list[str] = []
    ready = threading.Event()
    wait = subprocess.Popen.wait

    def wait_for_limit(process, timeout=None):
        if not ready.is_set():  # the first call: the limit is over once the command is ready
            assert ready.wait(60)
            raise subprocess.TimeoutExpired("command", timeout)
        return wait(process, timeout)

    def write(line):
        lines.append(line)
        ready.set()

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_limit)
    script = "trap 'echo stopped its server; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    assert run_limited(["bash", "-c", script], os.environ, 1, write, grace_s=60) == TIMED_OUT
    assert lines[-1] == "stopped its server"


def test_command_that_does_not_end_is_killed(monkeypatch):
    ready = threading.Event()
    wait = subprocess.Popen.wait

    def wait_for_limit(process, timeout=None):
        if timeout is not None:  # neither within the limit nor within the grace
            assert ready.wait(60)
            raise subprocess.TimeoutExpired("command", timeout)
        return wait(process)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_limit)
    script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
    status = run_limited(["bash", "-c", script], os.environ, 1, lambda line: ready.set())
    assert status == TIMED_OUT


@pytest.mark.parametrize("end", ["exit 0", "exit 1"])
def test_process_in_a_session_of_its_own_is_ended_with_the_command(end):
    """As tritonserver, which the command leaves behind if it dies."""
    lines: list[str] = []
    script = f"setsid sleep 1000 >/dev/null 2>&1 & echo $!; {end}"
    run_limited(["bash", "-c", script], os.environ, 60, lines.append)
    until(lambda: not is_alive(int(lines[0])))


def test_other_processes_go_on():
    with subprocess.Popen(["sleep", "1000"]) as other:
        run_limited(["true"], os.environ, 60, print)
        processes.kill_marked()
        assert other.poll() is None
        other.kill()
