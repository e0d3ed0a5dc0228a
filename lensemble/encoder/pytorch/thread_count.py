"""Chooses the number of CPU threads of a pass: one thread for small passes, all for large ones.

The threads of an operation wait for each other at its end. In small models an operation takes a few
microseconds, so waiting costs more time than the threads save, and it takes cores from
preprocessing. So passes are timed when the model is loaded, to find from which size on all threads
are clearly faster than one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

# All threads are used if their speed is at least this many times that of one thread;
# docs/decisions.md gives the reason.
MIN_GAIN = 1.25

# Sizes of the passes that are timed, in rows: tokens and patches together.
TIMED_ROWS = (64, 256, 1024, 4096)

_ROUNDS = 3
_LONG_PASS_S = 0.5  # longer passes are timed once
_NEVER = 1 << 62


class ThreadCount:
    """The number of PyTorch's threads for one pass at a time.

    Args:
        all_threads: number of threads of a large pass.
        large_from: smallest number of rows of a large pass; smaller passes use one thread.
    """

    def __init__(self, all_threads: int, large_from: int = 0) -> None:
        self._all_threads, self._large_from = all_threads, large_from

    def __call__(self, rows: int) -> int:
        """Returns the number of threads for a pass over this number of rows."""
        return self._all_threads if rows >= self._large_from else 1

    @contextmanager
    def applied_to(self, rows: int) -> Iterator[None]:
        """Sets PyTorch's threads for a pass over this number of rows, and resets them after it."""
        with _torch_threads(self(rows)):
            yield


def measure_thread_count(run_pass: Callable[[int], object], all_threads: int) -> ThreadCount:
    """Times passes of several sizes with one thread and with all.

    Args:
        run_pass: function that runs a pass over about the given number of rows.
        all_threads: largest number of threads.
    """
    if all_threads == 1:
        return ThreadCount(1)
    for rows in TIMED_ROWS:
        one, many = _fastest_seconds(run_pass, rows, (1, all_threads))
        logger.info(
            "%d rows: 1 thread %.1f ms, %d %.1f ms", rows, one * 1e3, all_threads, many * 1e3
        )
        if one >= MIN_GAIN * many or one > _LONG_PASS_S:
            # If this is the smallest size, smaller passes were not timed and use one thread; they
            # are short either way.
            return ThreadCount(all_threads, large_from=rows)
    return ThreadCount(all_threads, large_from=_NEVER)


def _fastest_seconds(
    run_pass: Callable[[int], object], rows: int, counts: tuple[int, ...]
) -> list[float]:
    """Returns the seconds of the fastest pass with each number of threads.

    The numbers take turns, and the minimum is taken, because disturbances only slow a pass down.
    """
    seconds: list[list[float]] = [[] for _ in counts]
    for _ in range(_ROUNDS):
        for times, count in zip(seconds, counts, strict=True):
            with _torch_threads(count):
                start = time.perf_counter()
                run_pass(rows)
                times.append(time.perf_counter() - start)
        if max(times[-1] for times in seconds) > _LONG_PASS_S:
            break
    return [min(times) for times in seconds]


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
