"""Works on an index on small file systems until they are full; run it where mounting is allowed.

    unshare --user --map-root-user --mount python -m tests.faults.small_disk JOB SIZE...

JOB is `fill`, `backup` or `export`; each SIZE is the size of one file system in kB.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lensemble.index.maintenance.backup import back_up
from lensemble.index.maintenance.compact import compact
from lensemble.index.maintenance.export import export
from lensemble.index.snapshots.manifest import SNAPSHOTS, snapshot_names
from lensemble.index.storage.store import Store
from lensemble_contract.errors import StorageError
from tests.faults.harness import ExpectedIndex, check_index
from tests.faults.worker import DIMENSION, PLANS, PROFILE, build


def fill(disk: Path, seed: int) -> str:
    """Writes and makes snapshots with less and less room; then makes room, and goes on."""
    folder, ballast = disk / "index", disk / "ballast"
    expected = ExpectedIndex(seed, 1)
    Store.create(folder, PROFILE, DIMENSION).close()
    attempts = successes = 0

    def write(store: Store) -> None:
        expected.write(store, 0, expected.applied[0] + 1)
        check_index(folder, expected)

    with Store.open(folder) as store:
        while succeeds(lambda: write(store)):
            free = shutil.disk_usage(disk).free
            for spare in (free, free // 2, 30_000, 8_000):
                if spare <= free and expected.applied[0] % 3 == 2:
                    with contextlib.suppress(OSError):  # the disk is full then
                        ballast.write_bytes(bytes(free - spare))
                    attempts += 1
                    plan = PLANS[attempts % len(PLANS)]
                    successes += succeeds(functools.partial(compact, folder, plan))
                    ballast.unlink(missing_ok=True)
                    assert list((folder / SNAPSHOTS).glob(".*")) == []
                    check_index(folder, expected)
        check_index(folder, expected)
    # The index is closed now, so the next process must create the WAL file, which needs room.
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    opened = succeeds(lambda: check_index(folder, expected))
    ballast.unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with Store.open(folder) as store:
        for _ in range(5):
            write(store)
    compact(folder)
    check_index(folder, expected)
    assert 1 <= len(snapshot_names(folder)) <= 2
    batches = expected.applied[0]
    return f"{batches} batches, {successes} of {attempts} snapshots, {opened=} when full: intact"


def copy(action: Callable[[Path, Path], int], disk: Path, seed: int) -> str:
    """Backs an index up, or exports it, to a disk that has no room for it."""
    with tempfile.TemporaryDirectory() as name:
        build(Path(name) / "index", seed, 4000)
        try:
            action(Path(name) / "index", disk / "copy")
        except StorageError as error:
            assert str(disk) in str(error), error
            return "refused"
        return "there was room"


JOBS: dict[str, Callable[[Path, int], str]] = {
    "fill": fill,
    "backup": functools.partial(copy, back_up),
    "export": functools.partial(copy, export),
}


def succeeds(action: Callable[[], object]) -> bool:
    """Whether there was room for an action; if not, its error must say what to do."""
    try:
        action()
    except StorageError as error:
        assert "make room" in str(error) or "see whether" in str(error), error
        return False
    return True


def main() -> None:
    """Runs the job on one small disk after the other."""
    job, sizes = JOBS[sys.argv[1]], sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        for seed, size in enumerate(sizes):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "small", name]
            subprocess.run(mount, check=True)
            try:
                print(f"{size} kB: {job(Path(name), seed)}", flush=True)
            finally:
                subprocess.run(["umount", name], check=True)


if __name__ == "__main__":
    main()
