"""Disks that really are full: an index, a backup and an export on small file systems."""

import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.waiting import DEADLINE_S


def on_small_disks(job: str, *sizes_kb: int) -> str:
    """Runs a job of `small_disk` where mounting is allowed; returns its output."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    done = subprocess.run(
        [*enter, sys.executable, "-m", "tests.faults.small_disk", job, *map(str, sizes_kb)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * DEADLINE_S,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout


def test_index_on_a_small_disk():
    assert on_small_disks("fill", 600).count("intact") == 1


@pytest.mark.slow
def test_index_on_disks_of_several_sizes():
    assert on_small_disks("fill", 400, 600, 1000, 1500, 2500, 4000).count("intact") == 6


@pytest.mark.parametrize("job", ["backup", "export"])
def test_copy_to_a_small_disk_is_refused(job):
    """The error names the full disk."""
    assert on_small_disks(job, 50, 100, 200).count("refused") == 3
