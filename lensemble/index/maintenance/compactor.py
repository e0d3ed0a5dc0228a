"""Compaction beside a serving process: when it is due, and a process of its own that does it.

A process, not a thread: building an index takes memory and minutes of a core, and neither a crash
there nor Python's lock may stop those who write.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from lensemble.index.snapshots.snapshot import is_intact, read_manifest
from lensemble.index.storage.store import Store
from lensemble_contract.errors import LensembleError

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
REMOVED_SHARE = 0.2
"""Of the snapshot's rows: from there on removed ones cost more than the next snapshot (Qdrant's
vacuum begins there, too)."""
_RETRY_S = 60.0
_LEAST_REMOVED = 1000


class Compactor:
    """Looks every two seconds whether the next snapshot is due, and has it made.

    Every snapshot that it has not seen before is read once: a damaged one is due, too.

    Args:
        folder: Of the index.
        rows: Written or removed since the last snapshot, that make the next one due.
        interval_s: Between two looks.
    """

    def __init__(self, folder: Path, rows: int, interval_s: float = INTERVAL_S) -> None:
        self._folder, self._rows, self._interval_s = folder, rows, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)

    def start(self) -> None:
        """Starts looking."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; a compaction under way is given up and leaves the index as it was."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        wait_s = self._interval_s
        known = ""
        while not self._stop.wait(wait_s):
            wait_s = self._interval_s
            try:
                with Store.open(self._folder) as store:
                    current = store.snapshot
                    reason = due(store, self._rows)
                    if current != known and not reason and not is_intact(self._folder, current):
                        reason = f"snapshot {current} is damaged"
                    known = current
            except LensembleError as error:
                logger.error("compaction: %s", error)
                wait_s = _RETRY_S
                continue
            if reason and not self._compact(reason):
                wait_s = _RETRY_S

    def _compact(self, reason: str) -> bool:
        logger.info("compaction begins: %s", reason)
        command = [_python(), "-m", "lensemble.index.maintenance", str(self._folder)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Threads that spin while they wait take the core that the others need.
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        while True:
            try:
                _, said = process.communicate(timeout=self._interval_s / 4)
                break
            except subprocess.TimeoutExpired:
                if self._stop.is_set():
                    process.kill()
        if self._stop.is_set():
            return True
        if process.returncode:
            logger.error("compaction failed with status %d: %s", process.returncode, said[-2000:])
        return process.returncode == 0


def due(store: Store, rows: int) -> str:
    """Why the next snapshot is due; empty if it is not.

    Args:
        store: Of the index.
        rows: Written or removed since the last snapshot, that make it due.

    Raises:
        StorageError: The store cannot be read.
    """
    current = store.snapshot
    made = read_manifest(store.folder, current) if current else None
    written, removed = store.pending(made.sequence if made else 0)
    if current and made is None:
        return f"snapshot {current} is damaged or missing"
    if written >= rows or removed >= rows:
        return f"{written} items written and {removed} removed since the last one"
    if made and removed >= max(_LEAST_REMOVED, REMOVED_SHARE * made.count):
        return f"{removed} of {made.count} items were removed"
    return ""


def _python() -> str:
    """The interpreter; inside Triton's stub `sys.executable` may be the stub, and PATH leads on."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or sys.executable
