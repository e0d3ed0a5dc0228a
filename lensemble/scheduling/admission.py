"""Refuses requests while more work waits than can be done in time, before any of it is done.

Triton's own limits on queues stall the bundled server (docs/decisions.md), and a queue without a
limit makes everybody wait until nobody waits any more. So `preprocess` refuses what would wait for
longer than `Settings.max_wait_s`, by two things that are written down for it:

- The encoder knows what waits in its lanes (`lanes`) and how long a row takes. Texts, pictures and
  bulk wait apart, so when pictures flood the server, texts still come in.
- The supervisor reads from Triton's metrics how many requests wait for `preprocess` and before the
  lanes, and how many are finished a second while some wait: waiting / rate is how long a new
  request would wait (Little 1961, "A Proof for the Queuing Formula L = lambda W").

Pictures and bulk wait for half as long: what is left is for texts, which take a fraction of it.
"""

from __future__ import annotations

import http.client
import logging
import mmap
import os
import re
import struct
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from lensemble_contract import contract
from lensemble_contract.errors import OverloadedError

logger = logging.getLogger(__name__)

FILE = "admission"
EVERY_S = 0.05
IDLE_S = 0.25
"""Between two looks while nothing waits: each costs Triton a millisecond or two."""
STALE_S = 2.0
"""Nobody is refused for what was written longer ago."""
FEW = 4
"""Requests that may wait however long that takes: slow models would serve nobody else. Those of a
client that sends many are tried again until its timeout."""
TEXT, PICTURE, BULK = "text", "picture", "bulk"
LANES = (TEXT, PICTURE, BULK)
PATIENT = 0.5
"""Part of the longest wait that pictures and bulk may have to wait."""
BULK_ROWS = 8
"""A request of more rows is nobody's who waits for one answer: it goes into `BULK`."""

_MODELS = (contract.PREPROCESS.name, contract.QWEN3_VL.name)
_LINE = re.compile(
    r'^nv_inference_(pending_request_count|request_success)\{model="(\w+)"[^}]*\} (\d+)', re.M
)
_WINDOW_S = 5.0
_TIMEOUT_S = 0.25
_LAYOUT = struct.Struct("=ddd")
"""When it was written, as of CLOCK_MONOTONIC; seconds that a new request would wait; requests that
wait."""


_PAIR = struct.Struct("=dd")
"""Of each lane: seconds that a new request would wait; rows that wait."""


def lane_of(rows: int, *, pictures: bool) -> str:
    """The lane of a request.

    Args:
        rows: How many it has.
        pictures: Whether any has one.
    """
    if rows > BULK_ROWS:
        return BULK
    return PICTURE if pictures else TEXT


class Board:
    """Where an encoder writes down how long new requests would wait; in its process.

    Args:
        folder: That `Gate` reads; None writes nothing.
        model: Its name.
    """

    def __init__(self, folder: Path | None, model: str) -> None:
        self._memory: mmap.mmap | None = None
        if folder is not None and folder.is_dir():
            size = _PAIR.size * len(LANES)
            with (folder / f"{FILE}.{model}.{os.getpid()}").open("w+b") as file:
                file.write(bytes(size))
                file.flush()
                self._memory = mmap.mmap(file.fileno(), size)

    def write(self, lanes: Sequence[tuple[float, float]]) -> None:
        """Writes down what holds now.

        Args:
            lanes: Of each of `LANES`, seconds that a new request would wait, and rows that wait.
        """
        if self._memory is not None:
            for n, pair in enumerate(lanes):
                _PAIR.pack_into(self._memory, n * _PAIR.size, *pair)


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
        folder: That a publisher and encoders write into; None or nothing there refuses nobody.
        max_wait_s: Longest wait; 0 refuses nobody.
    """

    def __init__(self, folder: Path | None, max_wait_s: float) -> None:
        self._folder = None if not max_wait_s else folder
        self._max_wait_s = max_wait_s
        self._published: mmap.mmap | None = None
        self._boards: list[mmap.mmap] = []
        self.refused = 0
        """Requests."""

    def check(self, lane: str) -> None:
        """Lets a request in.

        Args:
            lane: Of the request, of `LANES`.

        Raises:
            OverloadedError: It would wait for too long.
        """
        if self._published is None and not self._find():
            return
        assert self._published is not None
        written, wait_s, waiting = _LAYOUT.unpack(self._published)
        if time.monotonic() - written > STALE_S:
            wait_s, waiting = 0.0, 0.0
        at = LANES.index(lane) * _PAIR.size
        # Of several encoders the one with least to do.
        more_s, more = min((_PAIR.unpack_from(one, at) for one in self._boards), default=(0.0, 0.0))
        wait_s, waiting = wait_s + more_s, waiting + more
        limit = self._max_wait_s * (1.0 if lane == TEXT else PATIENT)
        if waiting <= FEW or wait_s <= limit:
            return
        self.refused += 1
        raise OverloadedError(
            f"{waiting:.0f} requests wait, some {wait_s:.1f} s of work; expected at most "
            f"{limit:g} s ({lane}); try again later"
        )

    def _find(self) -> bool:
        """Whether all that is read is there: the publisher begins when all models are ready."""
        if self._folder is None:
            return False
        try:
            published = _mapped(self._folder / FILE)
            self._boards = [_mapped(path) for path in sorted(self._folder.glob(f"{FILE}.*"))]
        except (OSError, ValueError):
            return False
        self._published = published
        return True


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


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
