"""The outcome of a run as a table, as JSON, and as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load.report.limits import where_of
from benchmarks.load.report.outcome import Outcome
from benchmarks.load.report.step_figures import Figures
from benchmarks.load.report.tally import ALL
from benchmarks.load.watch.statistics import STAGES

COLUMNS = {
    "requests_per_s": "req/s",
    "items_per_s": "items/s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
}
"""Figure -> heading."""
_MODEL_COLUMNS = (*(f"{stage}_ms" for stage in STAGES), "mean_batch", "requests", "failed")
_PROCESS_COLUMNS = ("cores", "resident_mib", "files", "processes")

Row = tuple[str, ...]


def requests(outcome: Outcome) -> tuple[Row, list[Row]]:
    """Heading and rows of what callers saw: one row per step and kind."""
    rows: list[Row] = []
    for step in outcome.steps:
        for kind, found in step["kinds"].items():
            if kind == ALL and len(step["kinds"]) == 2:
                continue  # it would say again what the only kind says
            values = [_number(found[key]) for key in COLUMNS]
            late, errors = _number(found["late_p99_ms"]), _errors(found["errors"])
            rows.append((where_of(outcome.scenario, step), kind, *values, late, errors))
    return ("load", "kind", *COLUMNS.values(), "late p99", "errors"), rows


def models(outcome: Outcome) -> tuple[Row, list[Row]]:
    """Heading and rows of what Triton's models did: mean milliseconds of a request."""
    rows: list[Row] = [
        (where_of(outcome.scenario, step), model, *(_number(one[key]) for key in _MODEL_COLUMNS))
        for step in outcome.steps
        for model, one in step["server"].get("models", {}).items()
    ]
    heading = [key.removesuffix("_ms") + " ms" * key.endswith("_ms") for key in _MODEL_COLUMNS]
    return ("load", "model", *(name.replace("_", " ") for name in heading)), rows


def lanes(outcome: Outcome) -> tuple[Row, list[Row]]:
    """Heading and rows of the encoder's lanes: mean milliseconds of a row."""
    keys = ("rows", "waited_ms", "pass_ms")
    rows: list[Row] = [
        (where_of(outcome.scenario, step), lane, *(_number(one[key]) for key in keys))
        for step in outcome.steps
        for lane, one in step["server"].get("lanes", {}).items()
    ]
    return ("load", "lane", "rows", "waited ms", "pass ms"), rows


def processes(outcome: Outcome) -> tuple[Row, list[Row]]:
    """Heading and rows of what the processes used, shared memory and GPUs beside them."""
    rows: list[Row] = []
    for step in outcome.steps:
        load, server = where_of(outcome.scenario, step), step["server"]
        for name, one in server.get("processes", {}).items():
            rows.append((load, name, *(_number(one[key]) for key in _PROCESS_COLUMNS)))
        if (shared := server.get("shared_memory_mib")) is not None:
            rows.append((load, "/dev/shm", "-", _number(shared), "-", "-"))
        if (card := server.get("gpu")) is not None:
            use = (card["utilization"], card["memory_mib"])
            rows.append((load, "GPU", *map(_number, use), "-", "-"))
    return ("load", "process", "cores", "MiB", "files", "processes"), rows


def growth(outcome: Outcome) -> tuple[Row, list[Row]]:
    """Heading and rows of a soak."""
    rows: list[Row] = [
        (
            one.name,
            f"{one.before:.6g}",
            f"{one.after:.6g}",
            f"{one.growth:+.2%}",
            _verdict(one.grew),
        )
        for one in outcome.soak or ()
    ]
    return ("soak", "settled", "in the end", "growth", "verdict"), rows


def tables(outcome: Outcome) -> Iterator[tuple[Row, list[Row]]]:
    """All tables that have rows."""
    for make in (requests, models, lanes, processes, growth):
        heading, rows = make(outcome)
        if rows:
            yield heading, rows


def table(outcome: Outcome) -> str:
    """All tables, for people."""
    parts = [title(outcome)]
    for heading, rows in tables(outcome):
        widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
        parts.append("\n".join(_line(row, widths) for row in (heading, *rows)))
    return "\n\n".join(parts)


def title(outcome: Outcome) -> str:
    """Scenario, protocol, loop, server, in one line."""
    one = outcome.scenario
    loop = one.loop if one.loop == "closed" else f"open ({one.arrivals})"
    peak = outcome.about.get("peak_requests_per_s")
    found = f", peak {peak:g} requests/s" if peak else ""
    return (
        f"{one.name}: {one.workload}, {one.protocol}, {loop} loop, {outcome.about['server']}{found}"
    )


def content(outcome: Outcome) -> Figures:
    """Everything, for JSON."""
    return {
        "scenario": outcome.scenario.model_dump(exclude_none=True),
        "about": outcome.about,
        "passed": not outcome.failed,
        "failed": [asdict(one) for one in outcome.failed],
        "soak": None if outcome.soak is None else [asdict(one) for one in outcome.soak],
        "steps": outcome.steps,
    }


def keep(found: Figures, file: Path) -> None:
    """Writes what `content` gives, without the histograms of latencies.

    Args:
        found: It, or what `result.json` has.
        file: Where to.
    """
    steps = [
        {
            **step,
            "kinds": {
                kind: {key: value for key, value in one.items() if key != "latencies"}
                for kind, one in step["kinds"].items()
            },
        }
        for step in found["steps"]
    ]
    file.write_text(json.dumps({**found, "steps": steps}, indent=2) + "\n")


def save(outcome: Outcome, out: Path) -> None:
    """Writes `result.json` (everything) and `result.csv` (a row per step and kind)."""
    (out / "result.json").write_text(json.dumps(content(outcome), indent=2) + "\n")
    with (out / "result.csv").open("w", newline="") as lines:
        writer: Any = None
        for step in outcome.steps:
            for kind, found in step["kinds"].items():
                flat = {key: value for key, value in found.items() if key != "latencies"}
                flat["errors"] = _errors(found["errors"])
                row = {"level": step["level"], "kind": kind, **flat}
                if writer is None:
                    writer = csv.DictWriter(lines, list(row))
                    writer.writeheader()
                writer.writerow(row)


def closing(outcome: Outcome) -> Figures:
    """What the last line of standard output says."""
    keys = (*COLUMNS, "error_rate")
    return {
        "scenario": outcome.scenario.name,
        "passed": not outcome.failed,
        "failed": [f"{one.where}: {one.limit}" for one in outcome.failed],
        "steps": [
            {"level": step["level"], **{key: step["kinds"][ALL][key] for key in keys}}
            for step in outcome.steps
        ],
    }


def _line(row: Row, widths: list[int]) -> str:
    """The first two columns are words and stand to the left."""
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers]).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in errors.items()) or "0"


def _verdict(grew: bool) -> str:
    return "GREW" if grew else "ok"
