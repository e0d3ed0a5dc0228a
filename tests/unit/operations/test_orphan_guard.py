"""Servers end with the process that started them, even if it is killed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lensemble.operations import orphan_guard
from tests.waiting import DEADLINE_S, until

# Starts two process groups of two processes each, and stops the second one in order.
PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from lensemble.operations import orphan_guard
groups = [
    subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )
    for _ in range(2)
]
folder, segments = Path(sys.argv[1]), sys.argv[2]
orphan_guard.watch(groups[0].pid, folder=folder, segments=segments)
orphan_guard.watch(groups[1].pid, folder=folder.parent / "kept")
orphan_guard.forget(groups[1].pid)
print(*(group.pid for group in groups), flush=True)
sys.stdin.readline()
"""


def members(group):
    """The processes of a group that have not ended."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(each.pid) == group and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def end(program, *groups):
    program.kill()
    program.communicate()
    for group in groups:
        for process in members(group):
            process.kill()


@pytest.fixture
def folders(tmp_path):
    for name in ("server", "kept"):
        (tmp_path / name / "models").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_has_started_is_killed_and_removed(folders, number):
    prefix = f"lensemble-test-{os.getpid()}-"
    segment = Path(f"/dev/shm/{prefix}1")
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folders / "server"), prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watched, forgotten = map(int, program.stdout.readline().split())
    try:
        segment.touch()
        until(lambda: len(members(watched)) == len(members(forgotten)) == 3)
        program.send_signal(number)
        assert program.wait(DEADLINE_S) == -number
        until(lambda: not members(watched), "the end of the watched group")
        until(lambda: not (folders / "server").exists() and not segment.exists())
        assert len(members(forgotten)) == 3
        assert (folders / "kept" / "models").is_dir()
    finally:
        end(program, watched, forgotten)


def test_process_that_took_over_an_id_is_left_alone(folders):
    """The kernel gives the ids of ended processes to new ones."""
    program = PROGRAM.replace(
        "orphan_guard.watch(groups[0]",
        "orphan_guard._start_time = lambda pid: '1'\norphan_guard.watch(groups[0]",
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(folders / "server"), ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watched, forgotten = map(int, running.stdout.readline().split())
    try:
        until(lambda: len(members(watched)) == 3)
        running.kill()
        running.wait(DEADLINE_S)
        until(lambda: not (folders / "server").exists(), "the end of the guard's work")
        assert len(members(watched)) == 3
    finally:
        end(running, watched, forgotten)


def test_server_is_started_where_no_guard_can_run(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(orphan_guard, "_pipes", {})
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    orphan_guard.watch(os.getpid())
    assert "no guard watches the servers of this process" in caplog.text
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
