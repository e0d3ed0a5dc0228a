"""Recall by dimension and by language, as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lensemble_evaluation.evaluate import ALL, Evaluation

METRIC = "recall_cap@10"


def plot(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draws what the evaluation has: by dimension if there are several, by language if there are.

    Args:
        evaluation: What was measured.
        folder: Where to write; made if it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        drawn = [_by_dimension(evaluation, folder), _by_language(evaluation, folder)]
    return [path for path in drawn if path is not None]


def _by_dimension(evaluation: Evaluation, folder: Path) -> Path | None:
    lengths = sorted({row.dimensions for row in evaluation.rows})
    if len(lengths) < 2:
        return None
    figure, axes = _figure(evaluation)
    for task in dict.fromkeys(row.task for row in evaluation.rows):
        values = [evaluation.row(task, ALL, length).metrics[METRIC] for length in lengths]
        axes.plot(lengths, values, marker="o", label=task)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("dimensions")
    axes.legend()
    return _saved(figure, folder / f"{evaluation.split}-by-dimension.png")


def _by_language(evaluation: Evaluation, folder: Path) -> Path | None:
    languages = list(dict.fromkeys(r.language for r in evaluation.rows if r.language != ALL))
    if not languages:
        return None
    figure, axes = _figure(evaluation)
    tasks = list(dict.fromkeys(r.task for r in evaluation.rows if r.language != ALL))
    width = 0.8 / len(tasks)
    longest = max(row.dimensions for row in evaluation.rows)
    for n, task in enumerate(tasks):
        values = {
            row.language: row.metrics[METRIC]
            for row in evaluation.rows
            if row.task == task and row.dimensions == longest
        }
        places = [place + n * width for place in range(len(languages))]
        axes.bar(places, [values.get(lang, 0) for lang in languages], width, label=task)
    middle = width * (len(tasks) - 1) / 2
    axes.set_xticks([place + middle for place in range(len(languages))], languages)
    axes.set_xlabel("language of the query")
    axes.legend()
    return _saved(figure, folder / f"{evaluation.split}-by-language.png")


def _figure(evaluation: Evaluation) -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(0, 1)
    axes.set_ylabel(METRIC)
    axes.set_title(f"{evaluation.dataset}, {evaluation.split} ({evaluation.corpus} items)")
    return figure, axes


def _saved(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
