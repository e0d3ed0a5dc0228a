"""What benchmarks share: rounds in turn, ratios with their spread, results that say where."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path("benchmarks/results")


def in_turn(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Times contenders by turns, so that what disturbs the machine disturbs all of them.

    Args:
        contenders: Name -> what to time.
        rounds: Timed rounds.
        warm_up: Rounds before those.

    Returns:
        Name -> seconds per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(name: str, slow: list[float], fast: list[float]) -> dict[str, float | list[float]]:
    """How many times faster: the median of the rounds' own ratios, and their spread.

    Args:
        name: Key of the ratio; its spread is `<name>_spread`, least and most.
        slow: Seconds per round.
        fast: Seconds of the same rounds.
    """
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    return {
        name: round(statistics.median(ratios), 2),
        f"{name}_spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every figure over rounds that have the same ones."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def ratio_lines(results: Mapping[str, Any]) -> list[str]:
    """The ratios among results, as `ratio` gives them, for people."""
    lines = []
    for key, value in results.items():
        if isinstance(value, float):
            least, most = results[f"{key}_spread"]
            lines.append(f"  {key:38} {value:6.2f}  ({least:.2f} to {most:.2f})")
    return lines


def machine() -> dict[str, Any]:
    """Where a result was measured."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
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


def finish(name: str, params: Mapping[str, Any], results: Mapping[str, Any], save: bool) -> None:
    """Writes the result file if asked to, and prints the closing JSON line.

    Args:
        name: Of the benchmark; the file is `benchmarks/results/<name>.json`.
        params: What it was run with.
        results: What it found.
        save: Whether to write the file.
    """
    if save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), "params": dict(params), "results": dict(results)}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(dict(results), separators=(",", ":")))
