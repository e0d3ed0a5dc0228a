"""Results of a benchmark: where they were measured, the closing line, and the result file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path("benchmarks/results")


def machine() -> dict[str, Any]:
    """Returns the CPU, its cores, the GPU, and the versions that a result was measured with."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def print_and_save(
    name: str, params: Mapping[str, Any], results: Mapping[str, Any], save: bool
) -> None:
    """Prints the results as the closing line of JSON, and writes the result file if asked to.

    Args:
        name: Name of the benchmark; the file is `benchmarks/results/<name>.json`.
        params: Parameters that it ran with.
        results: Measured figures.
        save: Whether to write the file.
    """
    if save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), "params": dict(params), "results": dict(results)}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(dict(results), separators=(",", ":")))
