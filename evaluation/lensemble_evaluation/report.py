"""Writes an evaluation as a table, with differences from an earlier one, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation.evaluate import Evaluation, MetricsRow
from lensemble_evaluation.metrics import NAMES


def format_table(evaluation: Evaluation, baseline: Evaluation | None = None) -> str:
    """Formats an evaluation: one line per task, language and length.

    Args:
        evaluation: The evaluation to show.
        baseline: An earlier evaluation of the same split. The differences from it are shown in
            brackets. If one evaluation is of `search` and the other of `embed`, those of `search`
            are compared with those of the longest vectors.
    """
    lines = [
        f"{evaluation.dataset}, split {evaluation.split}: {evaluation.corpus} items searched "
        f"through {evaluation.through}, {evaluation.embedder}, {evaluation.server}",
        "",
    ]
    width = 16 if baseline else 14
    task_width = max(len(row.task) for row in evaluation.rows) + 2
    headings = "".join(f"{name:>{width}}" for name in NAMES)
    lines.append(f"{'task':{task_width}}{'language':10}{'dim':>5}{'queries':>9}{headings}")
    for row in evaluation.rows:
        before = _same_row(baseline, row)
        cells = "".join(f"{_cell(row, before, name):>{width}}" for name in NAMES)
        dimensions = row.dimensions or "-"
        lines.append(
            f"{row.task:{task_width}}{row.language:10}{dimensions:>5}{row.queries:>9}{cells}"
        )
    return "\n".join(lines)


def check_baseline(baseline: Evaluation, dataset: str, split: str) -> None:
    """Checks that a baseline was measured on the same data.

    Raises:
        InvalidInputError: It was measured on another dataset or split.
    """
    if (baseline.dataset, baseline.split) != (dataset, split):
        raise InvalidInputError(
            f"it was measured on {baseline.dataset!r}, split {baseline.split!r}; this is "
            f"{dataset!r}, split {split!r}",
            field="baseline",
        )


def save(evaluation: Evaluation, path: Path) -> None:
    """Writes an evaluation as JSON: the fields of `Evaluation` and `MetricsRow`.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")


def load(path: Path) -> Evaluation:
    """Reads a file that `save` wrote.

    Raises:
        InvalidInputError: The file cannot be read, or `save` did not write it.
    """
    try:
        fields = json.loads(path.read_text("utf-8"))
        rows = [MetricsRow(**row) for row in fields["rows"]]
        for row in rows:
            row.metrics.update({name: float(row.metrics[name]) for name in NAMES})
        return Evaluation(**{**fields, "rows": rows})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            f"{str(path)!r} is not an evaluation ({type(error).__name__}: {error}); write one with "
            "`lensemble eval --json`",
            field="baseline",
        ) from error


def _cell(row: MetricsRow, before: MetricsRow | None, name: str) -> str:
    value = f"{row.metrics[name]:.3f}"
    return value if before is None else f"{value} ({row.metrics[name] - before.metrics[name]:+.3f})"


def _same_row(baseline: Evaluation | None, row: MetricsRow) -> MetricsRow | None:
    """Returns the baseline's row for the same group of queries; None if there is none."""
    if baseline is None:
        return None
    through_search = baseline.through == "search" or not row.dimensions
    try:
        return baseline.row(row.task, row.language, None if through_search else row.dimensions)
    except KeyError:
        return None
