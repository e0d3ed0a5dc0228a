"""Lets a program clean up before it ends when a signal asks it to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raises KeyboardInterrupt on SIGTERM and SIGHUP, as on Ctrl-C, so that `with` blocks are left.

    SIGINT needs the handler, too, because a shell script starts its background jobs with SIGINT
    ignored. Only the first signal counts: `timeout`, for example, sends two, and the second one
    would interrupt the stopping of the server.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda number, frame: None)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
