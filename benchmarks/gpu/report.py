"""Makes the tables of docs/performance.md from the results of a run, and keeps the results.

    python -m benchmarks.gpu.report FOLDER [--store]

`--store` copies the result files and the profile to `benchmarks/results/gpu-<card>/`.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.command.result_files import FILES, PROFILE, read_section

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the report.

    Attributes:
        section: The step whose rows it shows.
        title: Its heading.
        key: The value that a row must have to belong here.
        columns: Key in the rows -> heading.
    """

    section: str
    title: str
    key: str
    columns: Mapping[str, str]


_PASS = {"kind": "items", "size": "size", "batch": "in a pass"}

TABLES = (
    Table(
        "ceiling",
        "The card's limits",
        "what",
        {"what": "", "tflop_per_s": "TFLOP/s, bf16", "gb_per_s": "GB/s"},
    ),
    Table(
        "right",
        "Against the reference in fp32",
        "dtype",
        {
            "dtype": "precision",
            "items": "items",
            "min_cosine": "smallest cosine",
            "moved_by_others": "largest change by other items",
            "moved_by_a_leak": "by a leak",
        },
    ),
    Table(
        "encoder",
        "The encoder alone",
        "kind",
        _PASS
        | {
            "ms": "ms",
            "items_per_s": "items/s",
            "tflop_per_s": "TFLOP/s",
            "of_ceiling": "of the ceiling",
        },
    ),
    Table(
        "encoder",
        "Several passes, the next one packed while one computes",
        "overlapped",
        {
            "overlapped": "items",
            "size": "size",
            "items": "number",
            "passes": "passes",
            "items_per_s": "items/s",
            "tflop_per_s": "TFLOP/s",
            "of_ceiling": "of the ceiling",
        },
    ),
    Table(
        "encoder",
        "Where the time of a pass goes",
        "profiled",
        {
            "profiled": "items",
            "size": "size",
            "batch": "in a pass",
            "kernels": "kernels",
            "device_ms": "device ms",
            "busy": "device busy",
            "shares": "shares",
        },
    ),
    Table(
        "variants",
        "Variants",
        "variant",
        {"variant": "variant"}
        | _PASS
        | {
            "ms": "ms",
            "items_per_s": "items/s",
            "first_s": "first call, s",
            "min_cosine": "smallest cosine",
        },
    ),
    Table(
        "search",
        "Exact search by PyTorch",
        "queries",
        {
            "vectors": "vectors",
            "dimension": "dimension",
            "originals": "float32 vectors in",
            "queries": "queries at once",
            "ms": "ms",
            "queries_per_s": "queries/s",
        },
    ),
    Table(
        "peers",
        "Other libraries on ready inputs",
        "contender",
        {
            "set": "set",
            "contender": "contender",
            "items_per_s": "items/s",
            "min_cosine": "smallest cosine",
            "ratio": "ratio",
        },
    ),
    Table(
        "served",
        "Through Triton",
        "callers",
        {
            "set": "set",
            "callers": "callers",
            "items_per_s": "items/s",
            "of_encoder_alone": "of the encoder alone",
            "p50_ms": "p50 ms",
            "p99_ms": "p99 ms",
            "qwen3_vl_mean_batch": "requests in a batch",
            "gpu_use": "GPU use, %",
        },
    ),
)


def report(folder: Path) -> str:
    """Returns all tables as Markdown, with what is missing and what failed.

    Args:
        folder: Folder of the result files.
    """
    machines = [read_section(folder, section).get("machine") for section in FILES]
    where = _card(folder) or "a CPU, as a rehearsal"
    lines = [f"Measured on {where}." if any(machines) else "Nothing was measured.", ""]
    for table in TABLES:
        section = read_section(folder, table.section)
        rows = [row for row in section.get("rows", []) if table.key in row]
        shape = section.get("params", {}).get("shape", "")
        lines += [f"### {table.title}{f' ({shape})' if shape else ''}", ""]
        good = [row for row in rows if "failed" not in row]
        lines += [*markdown_table(good, table.columns), ""] if good else ["No result.", ""]
        for row in rows:
            if "failed" in row:
                labels = ", ".join(str(v) for key, v in row.items() if key != "failed")
                lines += [f"Failed: {labels}: {row['failed']}", ""]
    for name, record in read_section(folder, "command").get("steps", {}).items():
        if record["outcome"] != "done":
            lines.append(f"- {name}: {record['outcome']}")
    return "\n".join(lines)


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    """Returns the lines of a table; columns without any value are left out.

    Args:
        rows: The rows.
        columns: Key in the rows -> heading.
    """
    shown = [key for key in columns if any(row.get(key) is not None for row in rows)]
    lines = ["| " + " | ".join(columns[key] for key in shown) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in shown) + " |")
    return lines


def store(folder: Path, results: Path = RESULTS) -> Path:
    """Copies result files and profile to a folder with the card's name.

    Args:
        folder: Folder of the result files.
        results: Folder of all results.

    Returns:
        The new folder.

    Raises:
        SystemExit: The results are those of a rehearsal.
    """
    card = _card(folder)
    if card is None:
        raise SystemExit(f"the results in {str(folder)!r} are not of a GPU; they are not kept")
    target = results / f"gpu-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}"
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted({*FILES.values(), PROFILE}):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return target


def _card(folder: Path) -> str | None:
    """Returns the name of the GPU that any of the sections names."""
    machines = (read_section(folder, section).get("machine", {}) for section in FILES)
    return next((machine["gpu"] for machine in machines if machine.get("gpu")), None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    if isinstance(value, float) and 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the result files")
    parser.add_argument("--store", action="store_true", help="keep them in benchmarks/results/")
    options = parser.parse_args()
    if not any((options.folder / name).is_file() for name in FILES.values()):
        raise SystemExit(f"no results of a run in {str(options.folder)!r}; expected its --out")
    print(report(options.folder))
    if options.store:
        print(f"\nkept in {store(options.folder)}")


if __name__ == "__main__":
    main()
