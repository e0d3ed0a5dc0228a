"""Proves on a CPU that the whole run on a GPU machine works: pack, set up, every step, the table.

    python -m benchmarks.gpu.dry_run [--folder FOLDER]

It packs the bundles, copies the tracked files into a folder of their own, and runs `run.sh --dry`
there, so that the environment that `run.sh` makes is the one that runs, not this one. It takes
about four minutes on two cores. The exit status is 0 if every step ran and its figures are
plausible.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.pack import pack, tree_files
from benchmarks.gpu.table import STEPS

# A run hands back at most this many result files.
MAX_RESULT_FILES = 8


def copy_tree(target: Path) -> None:
    """Copies the files that would travel to the GPU machine.

    Args:
        target: Folder of the copy; made if it is missing.
    """
    for path in tree_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path)


def run(folder: Path) -> dict[str, dict[str, Any]]:
    """Packs, copies the tree, and runs every step with `--dry`.

    Args:
        folder: Empty folder for the bundles and the copy of the tree.

    Returns:
        Content of each step's result file.

    Raises:
        SystemExit: A step failed.
    """
    bundles, tree = folder / "bundles", folder / "tree"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pack(bundles, sys.executable, version, fast=True)
    copy_tree(tree)
    command = ["benchmarks/gpu/run.sh", "--dry", "--out", "results", "--bundles", str(bundles)]
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)  # the copy is what must be imported
    printed = ""
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed += line
    if process.returncode:
        raise SystemExit(f"run.sh ended with status {process.returncode}")
    results = {step: json.loads((tree / f"results/{step}.json").read_text()) for step in STEPS}
    files = len(list((tree / "results").iterdir()))
    if files > MAX_RESULT_FILES:
        raise SystemExit(f"{files} result files; a run may hand back at most {MAX_RESULT_FILES}")
    if str(tree / ".cache/gpu/venv") not in printed:
        raise SystemExit("the server that ran is not the packed one")
    return results


def implausible(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the expectations that the figures of a dry run do not meet.

    Args:
        results: Step -> content of its result file.
    """
    correctness = results["correctness"]["results"]
    rates = [row["items_per_s"] for row in results["served"]["results"]["rows"]]
    expected = {
        "the cosine in bf16 is at least 0.999": correctness["bf16_min_cosine"] >= 0.999,
        "the cosine in fp32 is at least 0.99999": correctness["fp32_min_cosine"] >= 0.99999,
        "neighbours move a vector by at most 1e-5": correctness["fp32_moved"] <= 1e-5,
        "a leak moves a vector by more than 1e-3": correctness["fp32_moved_by_a_leak"] > 1e-3,
        "every row of `served` has a rate": bool(rates) and min(rates) > 0,
        "every step ran dry": all(result["params"]["dry"] for result in results.values()),
    }
    return [claim for claim, holds in expected.items() if not holds]


def main() -> None:
    """Runs it and fails with a message if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="work here and keep it; default: temporary")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="gpu-dry-run-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        results = run(folder)
        if broken := implausible(results):
            raise SystemExit("does not hold: " + "; ".join(broken))
    print("dry run: every step ran")


if __name__ == "__main__":
    main()
