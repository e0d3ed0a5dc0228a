"""The result of a run as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.load.monitoring.triton_statistics import STAGES
from benchmarks.load.report.limits import name_of_step
from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.report.run_result import RunResult

# Figure -> heading.
COLUMNS = {
    "requests_per_s": "req/s",
    "items_per_s": "items/s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
}
_MODEL_COLUMNS = (*(f"{stage}_ms" for stage in STAGES), "mean_batch", "requests", "failed")
_PROCESS_COLUMNS = ("cores", "resident_mib", "files", "processes")

Row = tuple[str, ...]
# Heading and rows.
Table = tuple[Row, list[Row]]


def request_table(result: RunResult) -> Table:
    """Figures of the requests: one row per step and kind of request."""
    rows: list[Row] = []
    for step in result.steps:
        for kind, summary in step["kinds"].items():
            if kind == ALL and len(step["kinds"]) == 2:
                continue  # it would repeat the row of the only kind
            values = [_number(summary[key]) for key in COLUMNS]
            late, errors = _number(summary["late_p99_ms"]), format_errors(summary["errors"])
            rows.append((name_of_step(result.scenario, step), kind, *values, late, errors))
    return ("load", "kind", *COLUMNS.values(), "late p99", "errors"), rows


def model_table(result: RunResult) -> Table:
    """Figures of Triton's models: mean milliseconds of a request."""
    rows: list[Row] = [
        (
            name_of_step(result.scenario, step),
            model,
            *(_number(counts[key]) for key in _MODEL_COLUMNS),
        )
        for step in result.steps
        for model, counts in step["server"].get("models", {}).items()
    ]
    heading = [key.removesuffix("_ms") + " ms" * key.endswith("_ms") for key in _MODEL_COLUMNS]
    return ("load", "model", *(name.replace("_", " ") for name in heading)), rows


def lane_table(result: RunResult) -> Table:
    """Figures of the encoder's lanes: mean milliseconds of a row."""
    keys = ("rows", "waited_ms", "pass_ms")
    rows: list[Row] = [
        (name_of_step(result.scenario, step), lane, *(_number(counts[key]) for key in keys))
        for step in result.steps
        for lane, counts in step["server"].get("lanes", {}).items()
    ]
    return ("load", "lane", "rows", "waited ms", "pass ms"), rows


def process_table(result: RunResult) -> Table:
    """Use of processes, shared memory and GPUs."""
    rows: list[Row] = []
    for step in result.steps:
        load, server = name_of_step(result.scenario, step), step["server"]
        for name, usage in server.get("processes", {}).items():
            rows.append((load, name, *(_number(usage[key]) for key in _PROCESS_COLUMNS)))
        if (shared := server.get("shared_memory_mib")) is not None:
            rows.append((load, "/dev/shm", "-", _number(shared), "-", "-"))
        if (gpu := server.get("gpu")) is not None:
            usage = (gpu["utilization"], gpu["memory_mib"])
            rows.append((load, "GPU", *map(_number, usage), "-", "-"))
    return ("load", "process", "cores", "MiB", "files", "processes"), rows


def growth_table(result: RunResult) -> Table:
    """How much each figure of a soak grew."""
    rows: list[Row] = [
        (
            growth.name,
            f"{growth.before:.6g}",
            f"{growth.after:.6g}",
            f"{growth.growth:+.2%}",
            "GREW" if growth.grew else "ok",
        )
        for growth in result.soak or ()
    ]
    return ("soak", "settled", "at the end", "growth", "verdict"), rows


def tables(result: RunResult) -> Iterator[Table]:
    """Yields all tables that have rows."""
    for make in (request_table, model_table, lane_table, process_table, growth_table):
        heading, rows = make(result)
        if rows:
            yield heading, rows


def format_tables(result: RunResult) -> str:
    """Returns the title and all tables as text."""
    parts = [title(result)]
    for heading, rows in tables(result):
        widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
        parts.append("\n".join(_line(row, widths) for row in (heading, *rows)))
    return "\n\n".join(parts)


def title(result: RunResult) -> str:
    """Returns scenario, protocol, loop, server and peak in one line."""
    scenario = result.scenario
    loop = scenario.loop if scenario.loop == "closed" else f"open ({scenario.arrivals})"
    parts = [scenario.workload, scenario.protocol, f"{loop} loop", result.about["server"]]
    if peak := result.about.get("peak_requests_per_s"):
        parts.append(f"peak {peak:g} requests/s")
    return f"{scenario.name}: {', '.join(parts)}"


def format_errors(errors: dict[str, int]) -> str:
    """Returns error classes with their counts; `0` if there are none."""
    return ", ".join(f"{name}: {count}" for name, count in errors.items()) or "0"


def _line(row: Row, widths: list[int]) -> str:
    """Formats a row: the first two columns are left-aligned words, the rest numbers."""
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers]).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"
