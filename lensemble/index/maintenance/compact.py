"""Makes the next snapshot from the store, while others write and search."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from lensemble.index.snapshots.snapshot import SNAPSHOTS, Snapshot, read_manifest
from lensemble.index.snapshots.tune import make
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.store import Store
from lensemble_contract.errors import OverloadedError, StorageError

LOCK_FILE = "compact.lock"

logger = logging.getLogger(__name__)


def compact(folder: Path, plan: IndexPlan | None = None, threads: int = 1) -> Snapshot:
    """Builds a snapshot of all that is live, makes it the current one, and clears up.

    The one before is kept, in case the new one is found damaged. Rows whose tombstones are in that
    are removed for good, and older snapshots with them. Searchers take the new one when they have
    loaded it.

    Args:
        folder: Of the index.
        plan: How it is to be searched, from now on; None keeps the index's plan.
        threads: To build with.

    Returns:
        The new snapshot.

    Raises:
        InvalidInputError: There is no index, or the plan does not fit it.
        OverloadedError: Another process is at it.
        StorageError: The store is damaged, or the snapshot cannot be written.
    """
    with Store.open(folder) as store, _alone(folder):
        contents = store.contents()
        tuned = make(plan if plan is not None else store.plan, contents.vectors, threads)
        if plan is not None:  # it has worked
            store.set_plan(plan)
        snapshot = Snapshot.make(
            contents, tuned, profile_name=store.profile_name, profile_hash=store.profile_hash
        )
        snapshot.save(folder)
        store.set_snapshot(snapshot.name)
        state = store.state
        before = read_manifest(folder, state.previous) if state.previous else None
        if before is not None:
            store.purge(before.sequence)
        for path in (folder / SNAPSHOTS).iterdir():
            if path.name not in (state.snapshot, state.previous):
                shutil.rmtree(path, ignore_errors=True)
        logger.info("snapshot %s of %d items", snapshot.name, len(contents.rows))
        return snapshot


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One compaction at a time on this machine; the lock goes with the process that holds it."""
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
