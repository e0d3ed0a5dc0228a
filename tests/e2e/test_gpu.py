"""The harness for GPU machines: packed, set up in a bare environment, every step run on the CPU."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu.table import STEPS
from tests.paths import ROOT

pytestmark = pytest.mark.e2e


def test_every_step_runs_dry_in_an_environment_made_from_the_bundles(tmp_path):
    """In a copy of the tree: the environment that it makes must not be the one that runs this."""
    tree = tmp_path / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
            (tree / name).chmod((ROOT / name).stat().st_mode)
    pack = [sys.executable, "-m", "benchmarks.gpu.pack", "--fast", "--python", sys.executable]
    subprocess.run([*pack, "--out", str(tmp_path / "gpu")], cwd=ROOT, check=True, timeout=300)
    ran = subprocess.run(
        ["benchmarks/gpu/run.sh", "--dry", "--out", "results", "--bundles", str(tmp_path / "gpu")],
        cwd=tree,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == dict.fromkeys(STEPS, True)
    assert str(tree / ".cache" / "gpu" / "venv") in ran.stdout, "the packed server is the one used"
    results = {step: json.loads((tree / "results" / f"{step}.json").read_text()) for step in STEPS}
    right = results["right"]["results"]
    assert right["bf16_min_cosine"] >= 0.999
    assert right["fp32_min_cosine"] >= 0.99999
    assert right["fp32_moved"] <= 1e-5 < 1e-3 < right["fp32_moved_by_a_leak"]
    assert all(row["items_per_s"] > 0 for row in results["served"]["results"]["rows"])
    assert all(result["params"]["dry"] for result in results.values())
    assert len(list((tree / "results").iterdir())) <= 8, "as many files as may come back"
