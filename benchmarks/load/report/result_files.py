"""The result of a run as JSON and CSV."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.report.run_result import RunResult
from benchmarks.load.report.step_summary import Summary
from benchmarks.load.report.tables import COLUMNS, format_errors


def content(result: RunResult) -> Summary:
    """Returns everything that was measured, for JSON."""
    return {
        "scenario": result.scenario.model_dump(exclude_none=True),
        "about": result.about,
        "passed": not result.failed,
        "failed": [asdict(failure) for failure in result.failed],
        "soak": None if result.soak is None else [asdict(growth) for growth in result.soak],
        "steps": result.steps,
    }


def closing_line(result: RunResult) -> Summary:
    """Returns the content of the last line of standard output."""
    keys = (*COLUMNS, "error_rate")
    return {
        "scenario": result.scenario.name,
        "passed": not result.failed,
        "failed": [f"{failure.where}: {failure.limit}" for failure in result.failed],
        "steps": [
            {"level": step["level"], **{key: step["kinds"][ALL][key] for key in keys}}
            for step in result.steps
        ],
    }


def save(result: RunResult, out: Path) -> None:
    """Writes `result.json` (everything) and `result.csv` (one row per step and kind)."""
    (out / "result.json").write_text(json.dumps(content(result), indent=2) + "\n")
    with (out / "result.csv").open("w", newline="") as lines:
        writer: Any = None
        for step in result.steps:
            for kind, summary in step["kinds"].items():
                row = {"level": step["level"], "kind": kind, **_without_latencies(summary)}
                row["errors"] = format_errors(summary["errors"])
                if writer is None:
                    writer = csv.DictWriter(lines, list(row))
                    writer.writeheader()
                writer.writerow(row)


def save_without_latencies(result: Summary, file: Path) -> None:
    """Writes a result without the histograms of latencies, which are most of its bytes.

    Args:
        result: What `content` returned.
        file: File to write.
    """
    steps = [
        {
            **step,
            "kinds": {kind: _without_latencies(summary) for kind, summary in step["kinds"].items()},
        }
        for step in result["steps"]
    ]
    file.write_text(json.dumps({**result, "steps": steps}, indent=2) + "\n")


def _without_latencies(summary: Summary) -> Summary:
    return {key: value for key, value in summary.items() if key != "latencies"}
