"""The command itself: it needs no package, and refuses what it does not know."""

import subprocess
import sys

from tests.paths import ROOT


def test_command_needs_only_the_standard_library():
    """The interpreter with PyTorch lacks some of the project's packages."""
    code = "import benchmarks.gpu.__main__, sys; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, env={}
    )
    assert completed.returncode == 0, completed.stderr
    assert not {"torch", "numpy", "lensemble"} & set(completed.stdout.split())


def test_unknown_step_is_refused_before_anything_is_made(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu"]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "sevred"]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 1
    assert "'sevred' is not a step; the steps are preflight" in completed.stderr
    assert list(tmp_path.iterdir()) == []
