"""Fills small file systems with an index; run it where mounting is allowed.

unshare --user --map-root-user --mount python -m tests.faults.small_disk
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
from tests.faults.harness import Truth, check
from tests.faults.worker import DIMENSION, PLANS, PROFILE, batch, build


def worked(action: Callable[[], object]) -> bool:
    """Whether there was room for it; if not, the error says what to do."""
    try:
        action()
    except StorageError as error:
        assert "make room" in str(error) or "see whether" in str(error), error
        return False
    return True


def fill(disk: Path, seed: int) -> str:
    """Writes and makes snapshots with less and less room; then makes room, and goes on."""
    folder, ballast = disk / "index", disk / "ballast"
    truth = Truth(seed, 1)
    Store.create(folder, PROFILE, DIMENSION).close()
    tried = made = 0

    def write(store: Store) -> None:
        number = truth.applied[0] + 1
        truth.hear(0, [f"{number} {store.write(batch(seed, 0, number))[-1]}"])
        check(folder, truth)

    with Store.open(folder) as store:
        while worked(lambda: write(store)):
            free = shutil.disk_usage(disk).free
            for spare in (free, free // 2, 30_000, 8_000):
                if spare <= free and truth.applied[0] % 3 == 2:
                    with contextlib.suppress(OSError):  # it filled the disk, then
                        ballast.write_bytes(bytes(free - spare))
                    tried += 1
                    made += worked(functools.partial(compact, folder, PLANS[tried % len(PLANS)]))
                    ballast.unlink(missing_ok=True)
                    assert list((folder / SNAPSHOTS).glob(".*")) == []
                    check(folder, truth)
        check(folder, truth)
    # Nobody has it open: the next one makes the log anew, if there is room.
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    opened = worked(lambda: check(folder, truth))
    ballast.unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with Store.open(folder) as store:
        for _ in range(5):
            write(store)
    compact(folder)
    check(folder, truth)
    assert 1 <= len(snapshot_names(folder)) <= 2
    return f"{truth.applied[0]} batches, {made} of {tried} snapshots, {opened=} without room: whole"


def copy(action: Callable[[Path, Path], int], disk: Path, seed: int) -> str:
    """Backs an index up, or exports it, where there is no room for that."""
    with tempfile.TemporaryDirectory() as name:
        build(Path(name) / "index", seed, 4000)
        try:
            action(Path(name) / "index", disk / "copy")
        except StorageError as error:
            assert str(disk) in str(error), error
            return "refused"
        return "there was room"


WORK: dict[str, tuple[Callable[[Path, int], str], tuple[int, ...]]] = {
    "fill": (fill, (400, 600, 1000, 1500, 2500, 4000)),
    "backup": (functools.partial(copy, back_up), (50, 100, 200)),
    "export": (functools.partial(copy, export), (50, 100, 200)),
}
"""By word, what is done, on disks of so many kilobytes."""


def main() -> None:
    """Works on one small disk after the other."""
    work, sizes = WORK[sys.argv[1]]
    with tempfile.TemporaryDirectory() as name:
        for seed, size in enumerate(sizes):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "small", name]
            subprocess.run(mount, check=True)
            try:
                print(f"{size} kB: {work(Path(name), seed)}", flush=True)
            finally:
                subprocess.run(["umount", name], check=True)


if __name__ == "__main__":
    main()
