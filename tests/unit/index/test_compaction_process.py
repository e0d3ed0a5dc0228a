"""The process of a compaction ends when it is stopped, and with its parent."""

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from lensemble.index.maintenance.compactor import Compactor
from lensemble.index.snapshots.manifest import snapshot_names
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from tests.paths import CHECKPOINT
from tests.waiting import DEADLINE_S, until

PROFILE = Profile.load(CHECKPOINT)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 8) as created:
        created.write(
            [Upsert(str(n), vector) for n, vector in enumerate(np.eye(5, 8, dtype=np.float32))]
        )
        yield created


def compactions(folder):
    """Child processes that work on the index."""
    children = psutil.Process().children()
    return [child for child in children if str(folder) in child.cmdline()]


def test_stop_kills_a_running_compaction(store, monkeypatch, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    slow.chmod(0o755)
    monkeypatch.setattr(
        "lensemble.index.maintenance.compactor._python_interpreter", lambda: str(slow)
    )
    compactor = Compactor(store.folder, 5, interval_s=0.05)
    compactor.start()
    until(lambda: compactions(store.folder))
    compactor.stop()
    assert not compactions(store.folder)
    assert snapshot_names(store.folder) == []


def test_compaction_ends_with_its_parent_process(store, tmp_path):
    """A killed server leaves no compaction behind."""
    script = (
        "import time\n"
        "from lensemble.index.maintenance import __main__ as module\n"
        "module.compact = lambda *_, **__: time.sleep(600)\n"
        "module.main()\n"
    )
    parent = (
        f"import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {script!r}, {str(store.folder)!r}])\n"
        f"print(child.pid, flush=True)\n"
        f"sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(process.stdout.readline()))
    lower = min(19, os.nice(0) + 10)
    until(
        lambda: child.nice() == lower
    )  # the priority is lowered after the child has asked to end with its parent
    process.kill()
    process.wait()
    psutil.wait_procs([child], timeout=DEADLINE_S)
    assert not child.is_running()
    process.stdin.close()
    process.stdout.close()
