"""Refuses requests while more work waits than can be done in time, before any of it is done.

Triton's own limits on queues stall the bundled server (docs/decisions.md), and a queue without a
limit makes everybody wait until nobody waits any more. So the supervisor reads from Triton's
metrics how many requests wait for `preprocess` and for `qwen3_vl`, and how many each finishes a
second while some wait: waiting / rate is how long a new request would wait (Little 1961, "A Proof
for the Queuing Formula L = lambda W"). It writes that down where `preprocess` reads it, which
refuses what would wait for longer than `Settings.max_wait_s`. Pictures wait for half as long, so
that texts, which take a fraction of their time, still come in when pictures flood the server.
"""

from __future__ import annotations

import http.client
import logging
import mmap
import re
import struct
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from lensemble_client import contract
from lensemble_client.errors import OverloadedError

logger = logging.getLogger(__name__)

FILE = "admission"
EVERY_S = 0.05
IDLE_S = 0.25
"""Between two looks while nothing waits: each costs Triton a millisecond or two."""
STALE_S = 2.0
"""Nobody is refused for what was written longer ago."""
FEW = 32
"""Requests that may wait however long that takes: as many as a client or two have under way."""
PICTURES = 0.5
"""Part of the longest wait that pictures may have to wait."""

_MODELS = (contract.PREPROCESS.name, contract.QWEN3_VL.name)
_LINE = re.compile(
    r'^nv_inference_(pending_request_count|request_success)\{model="(\w+)"[^}]*\} (\d+)', re.M
)
_WINDOW_S = 5.0
_TIMEOUT_S = 0.25
_LAYOUT = struct.Struct("=ddd")
"""When it was written, as of CLOCK_MONOTONIC; seconds that a new request would wait; requests that
wait."""


class Line:
    """The queue of one model.

    Work is finished in lumps, a batch at a time, which in slow models is seconds apart. So its rate
    is that of whole stretches, each from one lump to the next.

    Attributes:
        waiting: Requests, when it was looked at last.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._last: tuple[float, int] | None = None
        self._stretches: deque[tuple[float, int]] = deque()
        """Seconds in which some waited all the time, and requests that were finished at the end."""
        self._open_s = 0.0
        """Of the stretch that has not ended."""

    def look(self, now: float, waiting: int, finished: int) -> None:
        """Takes note.

        Args:
            now: Seconds, of any clock.
            waiting: Requests.
            finished: Requests since the server was started.
        """
        if self._last is not None and self.waiting and waiting:
            before, count = self._last
            self._open_s += now - before
            if finished > count:
                self._stretches.append((self._open_s, finished - count))
                self._open_s = 0.0
        elif not waiting:
            self._open_s = 0.0
        while len(self._stretches) > 1 and self._seconds - self._stretches[0][0] >= _WINDOW_S:
            self._stretches.popleft()
        self.waiting, self._last = waiting, (now, finished)

    @property
    def _seconds(self) -> float:
        return sum(seconds for seconds, _ in self._stretches)

    @property
    def wait_s(self) -> float:
        """Seconds that a new request would wait.

        At least as long as nothing was finished: that is all that is known before the first lump.
        """
        if not self.waiting:
            return 0.0
        finished = sum(count for _, count in self._stretches)
        by_rate = self.waiting * self._seconds / finished if finished else 0.0
        return max(by_rate, self._open_s)


class Publisher:
    """Reads Triton's metrics and writes down how long a new request would wait.

    A context manager, with a thread.

    Args:
        url: Of Triton's metrics.
        folder: Where to write; `Gate` reads there.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._lines = {name: Line() for name in _MODELS}
        with (folder / FILE).open("w+b") as file:
            file.write(_LAYOUT.pack(0, 0, 0))
            file.flush()
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._memory.close()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S if self._waiting else IDLE_S):
            try:
                with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as answer:  # nosec B310
                    text = answer.read().decode()
            except (OSError, ValueError, http.client.HTTPException):
                continue  # what was written gets stale
            self.note(time.monotonic(), counts(text))

    def note(self, now: float, found: Mapping[str, tuple[int, int]]) -> None:
        """Writes down what follows from one look.

        Args:
            now: `time.monotonic()`.
            found: Model -> requests that wait, requests finished.
        """
        for name, line in self._lines.items():
            if name in found:
                line.look(now, *found[name])
        wait_s = sum(line.wait_s for line in self._lines.values())
        _LAYOUT.pack_into(self._memory, 0, now, wait_s, self._waiting)

    @property
    def _waiting(self) -> int:
        return sum(line.waiting for line in self._lines.values())


class Gate:
    """Refuses; in the process of `preprocess`.

    Args:
        folder: That a publisher writes into; None or nothing there refuses nobody.
        max_wait_s: Longest wait; 0 refuses nobody.
    """

    def __init__(self, folder: Path | None, max_wait_s: float) -> None:
        self._path = None if folder is None or not max_wait_s else folder / FILE
        self._max_wait_s = max_wait_s
        self._memory: mmap.mmap | None = None
        self.refused = 0
        """Requests."""

    def check(self, *, pictures: bool) -> None:
        """Lets a request in.

        Args:
            pictures: Whether it has any.

        Raises:
            OverloadedError: It would wait for too long.
        """
        written, wait_s, waiting = self._read()
        limit = self._max_wait_s * (PICTURES if pictures else 1.0)
        if waiting <= FEW or wait_s <= limit or time.monotonic() - written > STALE_S:
            return
        self.refused += 1
        raise OverloadedError(
            f"{waiting:.0f} requests wait, some {wait_s:.1f} s of work; expected at most "
            f"{limit:g} s ({'with' if pictures else 'without'} pictures); try again later"
        )

    def _read(self) -> tuple[float, float, float]:
        if self._path is None:
            return 0.0, 0.0, 0.0
        if self._memory is None:
            try:  # the publisher begins when all models are ready
                with self._path.open("rb") as file:
                    self._memory = mmap.mmap(file.fileno(), _LAYOUT.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError):
                return 0.0, 0.0, 0.0
        written, wait_s, waiting = _LAYOUT.unpack(self._memory)
        return written, wait_s, waiting


def counts(text: str) -> dict[str, tuple[int, int]]:
    """Model -> requests that wait, requests finished well.

    Args:
        text: Triton's metrics.
    """
    found: dict[str, dict[str, int]] = {}
    for metric, model, value in _LINE.findall(text):
        if model in _MODELS:
            found.setdefault(model, {})[metric] = int(value)
    return {
        model: (one["pending_request_count"], one["request_success"])
        for model, one in found.items()
        if len(one) == 2
    }
