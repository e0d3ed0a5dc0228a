"""Exporting a large model: time, memory and disk, and whether the graphs give the right vectors.

    python -m benchmarks.encoder.export [--shape tiny|small|2b] [--dtype fp32|fp16|int8] [--save]

The weights are random, in the shape of the published model. It runs `python -m lensemble_export
onnx` and then `verify-onnx`, each in a process of its own. `own_gib` is the largest private memory
of the process (`rss` without shared memory). `mapped_gib` is the largest memory of mapped files,
which the system may take back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.common.random_checkpoint import random_serving_checkpoint
from benchmarks.common.results import print_and_save
from lensemble.operations.signals import stop_on_signals

_SAMPLE_INTERVAL_S = 0.1
GIB = 2**30


def run_and_measure(command: list[str]) -> tuple[str, dict[str, float]]:
    """Runs a command and samples its memory.

    Args:
        command: Arguments of the Python interpreter.

    Returns:
        Standard output, and `seconds`, `own_gib`, `mapped_gib`.

    Raises:
        SystemExit: The command failed.
    """
    own = mapped = 0
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            sampled = psutil.Process(process.pid)
            while process.poll() is None:
                try:
                    memory = sampled.memory_info()
                except psutil.Error:  # it has just ended
                    continue
                own = max(own, memory.rss - memory.shared)
                mapped = max(mapped, memory.shared)
                time.sleep(_SAMPLE_INTERVAL_S)
        finally:
            if process.poll() is None:
                process.kill()
        printed = process.stdout.read() if process.stdout is not None else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return printed, {
        "seconds": round(time.perf_counter() - began, 1),
        "own_gib": round(own / GIB, 2),
        "mapped_gib": round(mapped / GIB, 2),
    }


def measure(shape: str, dtype: str) -> dict[str, Any]:
    """Exports and verifies a model.

    Args:
        shape: A key of `lensemble_export.model_shapes.SHAPES`.
        dtype: Precision of the graphs.
    """
    checkpoint = random_serving_checkpoint(shape)
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    tool = ["-m", "lensemble_export"]
    with TemporaryDirectory(dir=checkpoint.parent) as folder:
        graphs = Path(folder) / "graphs"
        _, export = run_and_measure([*tool, "onnx", str(checkpoint), str(graphs), "--dtype", dtype])
        files = {path.name: path.stat().st_size for path in sorted(graphs.iterdir())}
        printed, verify = run_and_measure([*tool, "verify-onnx", str(checkpoint), str(graphs)])
    return {
        "checkpoint_gib": round(weights / GIB, 2),
        "graphs_gib": round(sum(files.values()) / GIB, 2),
        "files": files,
        "export": export,
        "verify": {**verify, **json.loads(printed.splitlines()[-1])},
    }


def main() -> None:
    """Prints a line for people, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="2b")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--save", action="store_true", help="write results/export.json")
    options = parser.parse_args()
    with stop_on_signals():
        figures = measure(options.shape, options.dtype)
    print(
        f"{options.shape} in {options.dtype}: {figures['graphs_gib']} GiB, "
        f"{figures['export']['seconds']} s and {figures['export']['own_gib']} GiB of memory; "
        f"cosine {figures['verify']['min_cosine']}"
    )
    print_and_save(
        "export", {"shape": options.shape, "dtype": options.dtype}, figures, options.save
    )


if __name__ == "__main__":
    main()
