"""What `make demo` runs, in an empty folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_demo_ends_in_one_json_line(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["pictures"] >= 12
    assert summary["queries"] == 4 * summary["pictures"]
    assert summary["triton"] == "2.51.0"
    assert summary["recall_at_1"] >= 0.8
    assert summary["seconds"] > 0
