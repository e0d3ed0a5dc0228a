"""Runs a command with a time limit, and ends every process that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.command.guard import GRACE_S

# Processes inherit this variable, also those that leave the step's process group, as tritonserver
# does. So they are found after the step itself is gone.
_MARK = "BENCHMARK_STEP_MARK"
_THIS_RUN = uuid.uuid4().hex

TIMED_OUT = 124

# Some programs never have variables, so the search for those that start ends after a while.
_SCANS, _SCAN_S = 50, 0.01


def run_limited(
    command: Sequence[str],
    environment: Mapping[str, str],
    limit_s: float,
    write: Callable[[str], None],
    *,
    folder: Path | None = None,
    grace_s: float = GRACE_S,
) -> int:
    """Runs a command in a process group of its own.

    Args:
        command: Program and arguments.
        environment: Its environment variables.
        limit_s: Seconds after which it is told to end (SIGTERM).
        write: Called with each line of its output, from another thread.
        folder: Its working folder; None is this process's.
        grace_s: Seconds after which it is then killed.

    Returns:
        Its exit status; `TIMED_OUT` if the limit was reached.
    """
    mark = f"{_THIS_RUN}:{uuid.uuid4().hex}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, _MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    reader = threading.Thread(target=_copy_lines, args=(process, write), daemon=True)
    reader.start()
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    finally:
        kill_marked(mark)
        process.wait()
    reader.join(grace_s)  # a line that is still on its way
    return status


def kill_marked(mark: str = _THIS_RUN) -> None:
    """Kills all processes that inherited a mark.

    Args:
        mark: Beginning of the mark; by default that of all commands of this process.
    """
    for _ in range(_SCANS):
        marked, unclear = _marked(mark)
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not unclear:
            return
        time.sleep(_SCAN_S)


def _marked(mark: str) -> tuple[list[int], bool]:
    """Returns the marked processes, and whether another one may turn out to be marked.

    While a process starts its program, the kernel shows no variables of it.
    """
    wanted = f"{_MARK}={mark}".encode()
    found, unclear = [], False
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
            variables = (folder / "environ").read_bytes()
            if any(variable.startswith(wanted) for variable in variables.split(b"\0")):
                found.append(int(folder.name))
            elif not variables and (folder / "exe").readlink():  # kernel threads have no program
                unclear = True
    return found, unclear


def _copy_lines(process: subprocess.Popen[str], write: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            write(line.rstrip("\n"))
