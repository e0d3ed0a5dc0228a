"""Compaction: builds the next snapshot from the store while others write and search."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from lensemble.index.snapshots.manifest import SNAPSHOTS, read_manifest
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.snapshots.tune import build_for_plan
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.store import Store
from lensemble_contract.errors import OverloadedError, StorageError

LOCK_FILE = "compact.lock"

logger = logging.getLogger(__name__)


def compact(folder: Path, plan: IndexPlan | None = None, threads: int = 1) -> Snapshot:
    """Builds a snapshot of all live items, and makes it the current one.

    The previous snapshot is kept, in case the new one turns out to be damaged. Older snapshots are
    deleted, and so are the tombstones that are older than the previous snapshot. Searchers switch
    to the new snapshot after they have loaded it.

    Args:
        folder: folder of the index.
        plan: index plan from now on; None keeps the plan of the index.
        threads: number of threads to build with.

    Returns:
        The new snapshot.

    Raises:
        InvalidInputError: There is no index, or the plan does not fit it.
        OverloadedError: Another process is compacting the index.
        StorageError: The store is damaged, or the snapshot cannot be written.
    """
    with Store.open(folder) as store, _compaction_lock(folder):
        contents = store.read_contents()
        tuned = build_for_plan(plan if plan is not None else store.plan, contents.vectors, threads)
        if plan is not None:  # stored only after an index could be built with it
            store.set_plan(plan)
        snapshot = Snapshot.from_contents(
            contents, tuned, profile_name=store.profile_name, profile_hash=store.profile_hash
        )
        snapshot.save(folder)
        store.set_snapshot(snapshot.name)
        state = store.state
        previous = read_manifest(folder, state.previous) if state.previous else None
        if previous is not None:
            store.purge(previous.sequence)
        for path in (folder / SNAPSHOTS).iterdir():
            if path.name not in (state.snapshot, state.previous):
                shutil.rmtree(path, ignore_errors=True)
        logger.info("snapshot %s of %d items", snapshot.name, len(contents.rows))
        return snapshot


@contextlib.contextmanager
def _compaction_lock(folder: Path) -> Iterator[None]:
    """Allows one compaction at a time on this machine; the lock ends with the process."""
    try:
        opened = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise StorageError(f"cannot compact {str(folder)!r}: {error}", field="index") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OverloadedError(
                f"{str(folder)!r} is being compacted by another process; wait for it",
                field="index",
            ) from error
        yield
