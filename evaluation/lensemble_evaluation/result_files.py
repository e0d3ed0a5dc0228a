"""Writes results as JSON files, and reads an evaluation back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation.comparison import Comparison
from lensemble_evaluation.evaluate import Evaluation, MetricsRow
from lensemble_evaluation.metrics import NAMES


def save_result(result: Evaluation | Comparison, path: Path) -> None:
    """Writes a result as JSON: its fields, and those of the dataclasses in it.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")


def load_evaluation(path: Path) -> Evaluation:
    """Reads an evaluation that `save_result` wrote.

    Raises:
        InvalidInputError: The file cannot be read, or does not contain an evaluation.
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
