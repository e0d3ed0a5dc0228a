"""Heartbeats: each model process notes since when it has been working on its current call.

Seen from outside, a process that hangs in a call looks idle, and Triton still reports it as
ready. So each model process writes the start and the end of every call into a small file, which
takes some microseconds, and the supervisor reads these files.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensemble.scheduling.shared_file import SharedNumbers

# Two numbers: the start of the current call, and the patience of the stage in seconds. The start is
# `time.monotonic()`, whose clock all processes of a machine share, or 0 between calls.
_LAYOUT = struct.Struct("=dd")


@dataclass(frozen=True, slots=True)
class HeartbeatRecord:
    """The heartbeat of one process.

    Attributes:
        model: name of the model in the model repository.
        pid: process id.
        since: `time.monotonic()` at the start of the current call; None between calls.
        patience_s: seconds that a call may go on without using CPU time (`Stage.patience_s`).
    """

    model: str
    pid: int
    since: float | None
    patience_s: float


class HeartbeatWriter:
    """Writes the heartbeat of this process.

    Args:
        folder: folder of the heartbeat files. If it is None or missing, nothing is written.
        model: name of the model.
        patience_s: see `HeartbeatRecord`.
    """

    def __init__(self, folder: Path | None, model: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._file: SharedNumbers | None = None
        if folder is not None and folder.is_dir():
            self._file = SharedNumbers.create(folder / f"{model}-{os.getpid()}", 0, patience_s)

    @contextmanager
    def during_call(self) -> Iterator[None]:
        """Notes that the process works on a call until the block is left."""
        self._write(time.monotonic())
        try:
            yield
        finally:
            self._write(0)

    def _write(self, since: float) -> None:
        if self._file is not None:
            self._file.write(since, self._patience_s)


def read_heartbeats(folder: Path) -> list[HeartbeatRecord]:
    """The heartbeats of all model processes that write into a folder.

    Args:
        folder: folder of the heartbeat files.
    """
    records = []
    for path in sorted(folder.glob("*-*")):
        model, _, pid = path.name.rpartition("-")
        data = path.read_bytes()
        if len(data) == _LAYOUT.size:  # otherwise the process is just creating the file
            since, patience_s = _LAYOUT.unpack(data)
            records.append(HeartbeatRecord(model, int(pid), since or None, patience_s))
    return records
