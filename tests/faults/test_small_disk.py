"""Disks that really are full: an index, a backup, an export on file systems of some kilobytes."""

import subprocess
import sys

import pytest

from tests.faults.harness import PATIENCE_S, ROOT


def on_small_disks(what: str) -> str:
    """Runs `small_disk` where this user may mount; what it printed."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    command = [*enter, sys.executable, "-m", "tests.faults.small_disk", what]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout


def test_small_disk():
    """An index on file systems of some hundred kilobytes."""
    assert on_small_disks("fill").count("whole") == 6


def test_backup_to_a_small_disk():
    """It says which disk is full."""
    assert on_small_disks("backup").count("refused") == 3


def test_export_to_a_small_disk():
    assert on_small_disks("export").count("refused") == 3
