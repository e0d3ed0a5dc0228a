"""How long a new request would have to wait, passed between processes through small files.

The supervisor writes the wait in Triton's own queues (`TritonWaitWriter`). Each encoder process
writes the waits in its lanes (`LaneWaitsWriter`). The preprocessing processes read both
(`WaitReader`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lensemble.scheduling.lanes import LANES
from lensemble.scheduling.shared_file import SharedNumbers

# A supervisor's figure that is older than this many seconds is ignored.
STALE_S = 2.0

_FILE = "admission"


class Wait(NamedTuple):
    """How long a new request would wait, and behind how many others.

    Attributes:
        seconds: seconds that it would wait.
        queued: number of requests that wait in Triton's queues, or of rows that wait in a lane, or
            the sum of both.
    """

    seconds: float
    queued: float


class TritonWaitWriter:
    """Writes the wait in Triton's queues. The supervisor has one.

    Args:
        folder: folder of the shared files.
    """

    def __init__(self, folder: Path) -> None:
        # time of writing as `time.monotonic()`, seconds, number of queued requests
        self._file = SharedNumbers.create(folder / _FILE, 0, 0, 0)

    def write(self, now: float, wait: Wait) -> None:
        """Replaces the figures.

        Args:
            now: `time.monotonic()`.
            wait: the wait in Triton's queues.
        """
        self._file.write(now, *wait)

    def close(self) -> None:
        """Closes the file; readers keep what was written last until it is stale."""
        self._file.close()


class LaneWaitsWriter:
    """Writes the waits in the lanes of one encoder. Each encoder process has one.

    Args:
        folder: folder of the shared files. If it is None or missing, nothing is written.
        model: name of the encoder's model.
    """

    def __init__(self, folder: Path | None, model: str) -> None:
        self._file: SharedNumbers | None = None
        if folder is not None and folder.is_dir():
            path = folder / f"{_FILE}.{model}.{os.getpid()}"
            self._file = SharedNumbers.create(path, *(0, 0) * len(LANES))

    def write(self, waits: Sequence[Wait]) -> None:
        """Replaces the figures.

        Args:
            waits: the wait in each of `LANES`, in that order.
        """
        if self._file is not None:
            self._file.write(*(number for wait in waits for number in wait))


class WaitReader:
    """Reads what both writers wrote. Each preprocessing process has one.

    Args:
        folder: folder of the shared files; None if nobody writes.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._triton: SharedNumbers | None = None
        self._encoders: list[SharedNumbers] = []

    def read(self, lane: str) -> Wait | None:
        """The wait of a new request; None if no supervisor has written one yet.

        Args:
            lane: lane of the request, one of `LANES`.
        """
        if self._triton is None and not self._open():
            return None
        assert self._triton is not None
        written, *figures = self._triton.read()
        in_triton = Wait(*figures) if time.monotonic() - written <= STALE_S else Wait(0, 0)
        at = 2 * LANES.index(lane)
        # If there are several encoders, the one with the shortest wait will take the request.
        in_lane = min((Wait(*file.read()[at : at + 2]) for file in self._encoders), default=(0, 0))
        return Wait(in_triton.seconds + in_lane[0], in_triton.queued + in_lane[1])

    def _open(self) -> bool:
        """Opens the files, and returns whether it could: the supervisor's file must exist.

        The supervisor creates it when all models are ready, so the encoders' files exist by then.
        """
        if self._folder is None:
            return False
        try:
            triton = SharedNumbers.open(self._folder / _FILE)
            self._encoders = [
                SharedNumbers.open(path) for path in sorted(self._folder.glob(f"{_FILE}.*"))
            ]
        except (OSError, ValueError):
            return False
        self._triton = triton
        return True
