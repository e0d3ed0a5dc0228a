"""Kills the servers of a process that was killed itself, so that none is left unsupervised.

A process that gets SIGKILL cannot stop its children. So a small process of its own, the guard,
reads a pipe whose other end only that process holds. When the pipe ends, the guard kills the
process groups that were not stopped before, and removes their files.

PR_SET_PDEATHSIG would not do: it sends its signal when the *thread* that started a child ends, and
the supervisor starts servers in a thread. It also reaches tritonserver alone; the model processes
would live on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")

_lock = threading.Lock()
# Process id -> the file descriptor of the pipe to the guard of that process. It is open until the
# process ends, so it is no file object, which Python would close, and complain about.
_pipes: dict[int, int] = {}


def watch(pid: int, *, folder: Path | None = None, segments: str = "") -> None:
    """Has a process group killed if this process ends without having stopped it.

    Args:
        pid: process id of the group's leader.
        folder: folder to remove then.
        segments: beginning of the names of the shared memory to remove then; empty for none.
    """
    _tell(pid=pid, started=_start_time(pid), folder=str(folder or ""), segments=segments)


def forget(pid: int) -> None:
    """Ends `watch` for a process group that was stopped."""
    if os.getpid() in _pipes:
        _tell(forget=pid)


def _tell(**message: object) -> None:
    line = json.dumps(message).encode() + b"\n"
    with _lock:
        try:
            os.write(_pipes.get(os.getpid()) or _start_guard(), line)
        except (OSError, subprocess.SubprocessError) as error:
            # Somebody has killed the guard, and the next `watch` starts another one; or none can be
            # started here. The server works without it.
            logger.warning("no guard watches the servers of this process: %s", error)
            if pipe := _pipes.pop(os.getpid(), None):
                os.close(pipe)


def _start_guard() -> int:
    """Starts the guard. It is no child of this process, so nobody has to wait for its end."""
    reading, writing = os.pipe()
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", __file__],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    for pipe in _pipes.values():  # after a fork, the one of the parent process
        os.close(pipe)
    _pipes.clear()
    _pipes[os.getpid()] = writing
    return writing


def _start_time(pid: int) -> str:
    """When a process was started, in the kernel's ticks since boot; empty if it is gone."""
    try:
        # The second field is the program's name, which may contain anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _run_guard() -> None:
    """What the guard does: reads what to watch until the pipe ends, then kills what is left."""
    watched: dict[int, dict[str, Any]] = {}
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError):  # the last line, if the process was killed within it
            message = json.loads(line)
            if "forget" in message:
                watched.pop(message["forget"], None)
            else:
                watched[message["pid"]] = message
    for pid, message in watched.items():
        if _start_time(pid) in ("", message["started"]):  # otherwise it is another process by now
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
    for message in watched.values():
        if message["folder"]:
            shutil.rmtree(message["folder"], ignore_errors=True)
        if message["segments"]:
            for segment in _SHARED_MEMORY.glob(f"{message['segments']}*"):
                segment.unlink(missing_ok=True)


if __name__ == "__main__" and os.fork() == 0:
    os.setsid()  # signals to the process group of the process that it watches do not reach it
    _run_guard()
