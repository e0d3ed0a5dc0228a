"""Background compaction for a server: decides when one is due, and runs it in a process of its own.

A thread would not do: building an index takes much memory and minutes of CPU time, and neither a
crash in it nor Python's global interpreter lock may stop writers.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from lensemble.index.snapshots.manifest import is_intact, read_manifest
from lensemble.index.storage.store import Store
from lensemble_contract.errors import LensembleError

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0  # seconds between two checks
# If at least this share of a snapshot's rows was removed, skipping them in searches costs more than
# a new snapshot. Qdrant's vacuum has the same default.
REMOVED_SHARE = 0.2
# Fewer removed rows than this never make a compaction due by their share.
_MIN_REMOVED = 1000
_RETRY_S = 60.0  # seconds until the next check after a failure


class Compactor:
    """Checks at intervals whether a compaction is due, and runs it in a process of its own.

    Every new snapshot is read once. If it is damaged, a compaction is due, too.

    Args:
        folder: folder of the index.
        max_changes: a compaction is due if at least this many rows were written since the last
            snapshot, or at least this many were removed.
        interval_s: seconds between two checks.
    """

    def __init__(self, folder: Path, max_changes: int, interval_s: float = INTERVAL_S) -> None:
        self._folder, self._max_changes, self._interval_s = folder, max_changes, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)

    def start(self) -> None:
        """Starts checking, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops checking, and kills a running compaction, which leaves the index unchanged."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        wait_s = self._interval_s
        checked_snapshot = ""
        while not self._stop.wait(wait_s):
            wait_s = self._interval_s
            try:
                with Store.open(self._folder) as store:
                    current = store.snapshot
                    reason = compaction_reason(store, self._max_changes)
                    unchecked = current != checked_snapshot
                    if unchecked and not reason and not is_intact(self._folder, current):
                        reason = f"snapshot {current} is damaged"
                    checked_snapshot = current
            except LensembleError as error:
                logger.error("compaction: %s", error)
                wait_s = _RETRY_S
                continue
            if reason and not self._compact(reason):
                wait_s = _RETRY_S

    def _compact(self, reason: str) -> bool:
        """Runs a compaction; returns False if it failed."""
        logger.info("compaction begins: %s", reason)
        command = [_python_interpreter(), "-m", "lensemble.index.maintenance", str(self._folder)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # By default, OpenMP threads that wait spin, and take cores from searches and writes.
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        while True:
            try:
                _, stderr = process.communicate(timeout=self._interval_s / 4)
                break
            except subprocess.TimeoutExpired:
                if self._stop.is_set():
                    process.kill()
        if self._stop.is_set():
            return True
        if process.returncode:
            logger.error("compaction failed with status %d: %s", process.returncode, stderr[-2000:])
        return process.returncode == 0


def compaction_reason(store: Store, max_changes: int) -> str:
    """The reason why a compaction is due; empty if none is due.

    Args:
        store: store of the index.
        max_changes: as for `Compactor`.

    Raises:
        StorageError: The store cannot be read.
    """
    current = store.snapshot
    manifest = read_manifest(store.folder, current) if current else None
    written, removed = store.count_changes_since(manifest.sequence if manifest else 0)
    if current and manifest is None:
        return f"snapshot {current} is damaged or missing"
    if written >= max_changes or removed >= max_changes:
        return f"{written} items written and {removed} removed since the last one"
    if manifest and removed >= max(_MIN_REMOVED, REMOVED_SHARE * manifest.count):
        return f"{removed} of {manifest.count} items were removed"
    return ""


def _python_interpreter() -> str:
    """Path of the Python interpreter; in Triton's stub, `sys.executable` may be the stub itself."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or sys.executable
