"""Ends a command quietly when its output is no longer read, as by `head`."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable


def end_quietly(command: Callable[[], int]) -> int:
    """Runs a command, and returns its exit status.

    Args:
        command: Function that prints to standard output and returns the exit status.

    Returns:
        The command's exit status; 141, as a shell reports SIGPIPE, if the program that reads
        standard output through a pipe has ended.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # the interpreter's own, at its end, would print a traceback
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _output_is_closed() -> bool:
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors are reported in any case
    return bool(poll.poll(0))
