"""Formats an evaluation as a table, with differences from an earlier one."""

from __future__ import annotations

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
