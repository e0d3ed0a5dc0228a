"""How many of a CPU's threads a pass of the encoder takes: as many as pay.

Threads of one operation wait for each other at its end. Where the operation is a few microseconds
long, as in small models, that costs more than it brings, and takes cores from preprocessing. So
passes are timed when the model is loaded: from how many rows on do all threads pay?
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

MIN_GAIN = 1.25
"""How many times as fast as one thread all of them must be; docs/decisions.md says why."""

SIZES = (64, 256, 1024, 4096)
"""Rows, tokens and patches together, of the passes that are timed."""

_ROUNDS = 3
_NEVER = 1 << 62
_LONG_S = 0.5


class Threads:
    """Sets PyTorch's threads for one pass at a time.

    Args:
        most: Threads that a pass may take.
        pays_from: Rows of a pass from which on it takes them; smaller ones take one.
    """

    def __init__(self, most: int, pays_from: int = 0) -> None:
        self._most, self._pays_from = most, pays_from

    def __call__(self, rows: int) -> int:
        """Threads for a pass over so many rows."""
        return self._most if rows >= self._pays_from else 1

    @contextmanager
    def during(self, rows: int) -> Iterator[None]:
        """Runs a pass with the threads that pay, and puts back what was set."""
        with _set(self(rows)):
            yield


def choose(run: Callable[[int], object], most: int) -> Threads:
    """Times passes with one thread and with all.

    Args:
        run: One pass over about so many rows.
        most: Threads that a pass may take.
    """
    if most == 1:
        return Threads(1)
    for rows in SIZES:
        one, every = _fastest(run, rows, (1, most))
        logger.info("%d rows: 1 thread %.1f ms, %d %.1f ms", rows, one * 1e3, most, every * 1e3)
        if one >= MIN_GAIN * every or one > _LONG_S:
            # Of the smallest size nothing smaller is known; such passes are short either way.
            return Threads(most, pays_from=rows)
    return Threads(most, pays_from=_NEVER)


def _fastest(run: Callable[[int], object], rows: int, counts: tuple[int, ...]) -> list[float]:
    """Seconds with each count of threads, by turns; what disturbs only ever slows a pass down."""
    taken: list[list[float]] = [[] for _ in counts]
    for _ in range(_ROUNDS):
        for seconds, count in zip(taken, counts, strict=True):
            with _set(count):
                began = time.perf_counter()
                run(rows)
                seconds.append(time.perf_counter() - began)
        if max(seconds[-1] for seconds in taken) > _LONG_S:
            break
    return [min(seconds) for seconds in taken]


@contextmanager
def _set(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
