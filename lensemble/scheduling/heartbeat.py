"""Each model's process notes since when it works on a call; who watches over it reads that.

From outside, a process that hangs in one call looks like one that has nothing to do: Triton goes on
to call it ready. So `triton.respond` writes down when a call begins and that it has ended: sixteen
bytes in memory that a file shares, some microseconds a call.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LAYOUT = struct.Struct("=dd")
"""Since when, as of CLOCK_MONOTONIC, which all processes of a machine share; 0 is idle. Then for
how long the stage may stand still."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one process noted.

    Attributes:
        model: Its name in the model repository.
        pid: Of the process.
        since: `time.monotonic()` of the call's beginning; None between calls.
        patience_s: For how many seconds a call may use no CPU time (`Stage.patience_s`).
    """

    model: str
    pid: int
    since: float | None
    patience_s: float


class Heartbeat:
    """Writes the notes of this process.

    Args:
        folder: Where; missing or None, nothing is written: nobody watches.
        model: Name of the model.
        patience_s: See `Beat`.
    """

    def __init__(self, folder: Path | None, model: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._memory: mmap.mmap | None = None
        if folder is None or not folder.is_dir():
            return
        with (folder / f"{model}-{os.getpid()}").open("w+b") as file:
            file.write(_LAYOUT.pack(0, patience_s))
            file.flush()
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)

    @contextmanager
    def during(self) -> Iterator[None]:
        """A call of the model."""
        self._note(time.monotonic())
        try:
            yield
        finally:
            self._note(0)

    def _note(self, since: float) -> None:
        if self._memory is not None:
            _LAYOUT.pack_into(self._memory, 0, since, self._patience_s)


def read(folder: Path) -> list[Beat]:
    """What all processes noted that write into a folder.

    Args:
        folder: Of `Heartbeat`.
    """
    found = []
    for path in sorted(folder.glob("*-*")):
        model, _, pid = path.name.rpartition("-")
        data = path.read_bytes()
        if len(data) == _LAYOUT.size:  # else it is just being made
            since, patience_s = _LAYOUT.unpack(data)
            found.append(Beat(model, int(pid), since or None, patience_s))
    return found
