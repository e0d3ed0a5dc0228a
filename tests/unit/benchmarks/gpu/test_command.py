"""The command itself: it needs no package, and refuses what it does not know."""

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--total-s", "-5"], "--total-s: -5.0 is not more than 0"),
        (["--total-s", "nan"], "--total-s: nan is not more than 0"),
        (["--instances", "0"], "--instances: 0 is not more than 0"),
        (["--shape", "70b"], "'70b' (choose from"),
        ([], "empty'; run `python -m benchmarks.gpu.pack`"),
    ],
)
def test_run_that_can_measure_nothing_is_refused_before_time_is_spent(tmp_path, options, message):
    command = [sys.executable, "-m", "benchmarks.gpu", "--bundle", str(tmp_path / "empty")]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *options]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode
    assert message in completed.stderr
    assert list(tmp_path.iterdir()) == []


def test_folder_without_results_has_no_report(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu.report", str(tmp_path / "typo")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 1
    assert f"no results of a run in {str(tmp_path / 'typo')!r}" in completed.stderr
