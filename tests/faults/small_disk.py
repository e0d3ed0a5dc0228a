"""Fills small file systems with an index; run it where mounting is allowed (`unshare`).

    unshare --user --map-root-user --mount python -m tests.faults.small_disk
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from pathlib import Path

from lensemble.index.compact import compact
from lensemble.index.snapshot import names
from lensemble.index.store import Store
from lensemble_client.errors import StorageError
from tests.faults.harness import Truth, check
from tests.faults.worker import DIMENSION, PLANS, PROFILE, batch

KILOBYTES = (300, 500, 700, 1000, 1500, 2500)


def fill(disk: Path, seed: int) -> str:
    """Writes and makes snapshots until neither is possible; then makes room, and goes on."""
    folder = disk / "index"
    truth = Truth(seed, 1)
    Store.create(folder, PROFILE, DIMENSION).close()
    refused = 0
    with Store.open(folder) as store:
        for number in itertools.count():
            try:
                truth.hear(0, [f"{number} {store.write(batch(seed, 0, number))[-1]}"])
            except StorageError as error:
                assert "make room" in str(error) or "see whether" in str(error), error
                break
            try:
                if number % 5 == 4:
                    compact(folder, PLANS[number % 3])
            except StorageError as error:
                assert "make room" in str(error) or "see whether" in str(error), error
                refused += 1
    left = [path.name for path in folder.glob("snapshots/.*")]
    assert left == [], left
    check(folder, truth)
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with Store.open(folder) as store:
        for number in range(truth.applied[0] + 1, truth.applied[0] + 10):
            truth.hear(0, [f"{number} {store.write(batch(seed, 0, number))[-1]}"])
    compact(folder)
    check(folder, truth)
    return f"{truth.applied[0]} batches, {refused} compactions refused, {len(names(folder))} left"


def main() -> None:
    """Fills one after the other."""
    with tempfile.TemporaryDirectory() as name:
        for seed, size in enumerate(KILOBYTES):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "small", name]
            subprocess.run(mount, check=True)
            try:
                print(f"{size} kB: {fill(Path(name), seed)}: whole", flush=True)
            finally:
                subprocess.run(["umount", name], check=True)


if __name__ == "__main__":
    main()
