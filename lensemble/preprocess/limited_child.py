"""Runs a function in a child process that is killed past its limits of time and memory.

A thread that decodes cannot be stopped, and a fault in a codec ends its process. The child is a
copy of this process (`fork`), so it needs no start of its own: it takes some milliseconds and
inherits everything that the function reads.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Seconds of waiting after which a child is killed that is blocked, or gets no CPU.
_WALL_S = 120
_libc = ctypes.CDLL(None)


class ChildFailedError(Exception):
    """The child was killed or failed.

    Attributes:
        signal: number of the signal that ended it; 0 if it failed by itself.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.signal = max(0, -exit_code)

    @property
    def is_out_of_time(self) -> bool:
        """Whether it was killed because it had used up its time."""
        return self.signal in (signal.SIGXCPU, signal.SIGALRM)


def fill_in_child(
    fill: Callable[[mmap.mmap], None], size: int, *, cpu_s: int, memory_bytes: int
) -> mmap.mmap:
    """Runs a function that writes its result into shared memory.

    Args:
        fill: the function; what else it changes is lost.
        size: bytes of shared memory that it gets.
        cpu_s: seconds of CPU time that it may use.
        memory_bytes: memory that it may allocate beyond what this process has.

    Returns:
        The shared memory.

    Raises:
        ChildFailedError: The child was killed, or the function raised an exception.
    """
    shared = mmap.mmap(-1, size)
    parent = os.getpid()
    pid = _fork()
    if pid == 0:
        exit_code = 1
        try:
            _limit(parent, cpu_s, memory_bytes)
            fill(shared)
            exit_code = 0
        finally:
            os._exit(exit_code)  # without the clean-up that belongs to the parent
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:  # a signal handler raised
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if exit_code := os.waitstatus_to_exitcode(status):
        raise ChildFailedError(exit_code)
    return shared


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of locks that other threads may hold. The child takes none of theirs:
        # it runs codecs, and glibc takes care of its own allocator.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _limit(parent: int, cpu_s: int, memory_bytes: int) -> None:
    """Limits the calling process, which has just been forked."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)
    for number in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_WALL_S)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = data_pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
