"""Limits how many processes of one model do long work at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensemble_contract.errors import OverloadedError


class Slots:
    """Slots for long work: one fewer than the model has processes, but at least one.

    So one process stays free for short work, however much long work is sent. A slot is a lock on a
    file, which the kernel releases when the process that holds it ends.

    Args:
        folder: folder of the heartbeat files, one for each process. If it is None or missing, there
            is no limit.
        model: name of the model.
    """

    def __init__(self, folder: Path | None, model: str) -> None:
        self._folder = folder if folder is not None and folder.is_dir() else None
        self._model = model

    @contextmanager
    def taken(self, work: str) -> Iterator[None]:
        """Holds a slot until the block is left.

        Args:
            work: what the slots are for, in the plural, for the error message.

        Raises:
            OverloadedError: No slot is free.
        """
        if self._folder is None:
            yield
            return
        processes = len(list(self._folder.glob(f"{self._model}-*")))
        for number in range(max(1, processes - 1)):
            file = os.open(
                self._folder / f"{self._model}_slot{number}", os.O_RDWR | os.O_CREAT, 0o600
            )
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            try:
                yield
            finally:
                os.close(file)
            return
        raise OverloadedError(f"other {work} are being worked on; try again later")
