"""Rehearses the whole run on a CPU: pack, make the environments, every step, the tables.

    python -m benchmarks.gpu.dry_run [--python INTERPRETER] [--folder FOLDER]

It packs the bundle, copies the files that would travel into a folder of their own, and runs the
command there with `--device cpu` and the given interpreter, whose packages stand for those of the
GPU machine. It takes some minutes, so it is no test: run it by hand. The exit status is 0 if every
step ran and its figures are plausible. `replica.py` makes an interpreter like that machine's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.command.plan import PLAN
from benchmarks.gpu.command.result_files import FILES, MAX_FILES, read_section
from benchmarks.gpu.pack import pack, tree_files
from benchmarks.gpu.report import TABLES, report

# A CPU with other work takes a multiple of a GPU machine's time.
TOTAL_S = 2400.0


def copy_tree(target: Path) -> None:
    """Copies the files that would travel to the GPU machine.

    Args:
        target: Folder of the copy; made if it is missing.
    """
    for path in tree_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path)


def run(folder: Path, python: str) -> Path:
    """Packs, copies the tree, and runs the command there.

    Args:
        folder: Folder for the bundle and the copy of the tree.
        python: Interpreter whose packages stand for those of the GPU machine.

    Returns:
        Folder of the results.
    """
    bundle, tree = folder / "bundle", folder / "tree"
    pack(bundle, python, fast=True)
    copy_tree(tree)
    results = tree / "results"
    command = [python, "-m", "benchmarks.gpu", f"--out={results}", f"--bundle={bundle}"]
    command += ["--device=cpu", f"--total-s={TOTAL_S}", "--instances=2"]
    # The copy is what must be imported.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, cwd=tree, env=environment, check=False)
    return results


def broken(results: Path) -> list[str]:
    """Returns what does not hold for the results of a rehearsal.

    Args:
        results: Folder of the result files.
    """
    records = read_section(results, "command").get("steps", {})
    sections = {name: read_section(results, name) for name in FILES}
    rows: dict[str, list[dict[str, Any]]] = {
        name: section.get("rows", []) for name, section in sections.items()
    }
    claims = {
        f"{step.name} is done: {records.get(step.name)}": records.get(step.name)
        == {"outcome": "done"}
        for step in PLAN
    }
    claims |= {
        "no row failed": not any("failed" in row for part in rows.values() for row in part),
        f"there are at most {MAX_FILES} files": len(list(results.iterdir())) <= MAX_FILES,
        "neighbours move a vector in fp32 by at most 1e-5": _value(rows, "moved_by_others") <= 1e-5,
        "a leak moves a vector by more than 1e-3": _value(rows, "moved_by_a_leak") > 1e-3,
        "the server has NumPy 1": sections["served"].get("machine", {}).get("numpy", "")[:2]
        == "1.",
        "every table has rows": "No result" not in report(results),
        f"there are {len(TABLES)} tables": report(results).count("### ") == len(TABLES),
    }
    return [claim for claim, holds in claims.items() if not holds]


def _value(rows: dict[str, list[dict[str, Any]]], key: str) -> float:
    """Returns a figure of `right` in fp32."""
    return next((row[key] for row in rows["right"] if row.get("dtype") == "fp32"), float("nan"))


def main() -> None:
    """Runs it and fails with a message if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="default: this one")
    parser.add_argument("--folder", type=Path, help="work here and keep it; default: temporary")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="gpu-dry-run-") as temporary:
        results = run((options.folder or Path(temporary)).resolve(), options.python)
        print(report(results))
        if claims := broken(results):
            raise SystemExit("does not hold: " + "; ".join(claims))
    print("rehearsal: every step ran")


if __name__ == "__main__":
    main()
