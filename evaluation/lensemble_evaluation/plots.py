"""Recall by dimension and by language, and embedders side by side, as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lensemble_evaluation.compare import Comparison
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


def plot_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws embedders side by side: quality by task, latency, throughput, server time.

    Args:
        comparison: What was measured.
        folder: Where to write; made if it is missing.

    Returns:
        The file; none if no embedder has figures.
    """
    done = [(one, one.cost) for one in comparison.embedders if one.cost is not None]
    if not done:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    names = [one.embedder for one, _ in done]
    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
        quality, latency, rate, server = figure.subplots(2, 2).flat
        figure.suptitle(
            f"{comparison.dataset}, {comparison.split} ({comparison.corpus} items, "
            f"{comparison.queries} queries)"
        )
        tasks = list(dict.fromkeys(row.task for row in done[0][0].quality))
        of = {
            (one.embedder, row.task): row.metrics["ndcg@10"]
            for one, _ in done
            for row in one.quality
            if row.language == ALL
        }
        _bars(quality, tasks, names, [[of[name, task] for task in tasks] for name in names])
        quality.set_ylim(0, 1)
        quality.set_ylabel("ndcg@10")
        points = list(done[0][1].latency_ms)
        _bars(latency, points, names, [list(cost.latency_ms.values()) for _, cost in done])
        latency.set_ylabel("ms per call, one at a time")
        medians = [cost.items_per_s["median"] for _, cost in done]
        spread = [
            [cost.items_per_s["median"] - cost.items_per_s["least"] for _, cost in done],
            [cost.items_per_s["most"] - cost.items_per_s["median"] for _, cost in done],
        ]
        rate.bar(names, medians, yerr=spread, capsize=4)
        rate.set_ylabel(f"items/s, {comparison.concurrency} calls under way")
        server.bar(names, [cost.server_s_per_1000 for _, cost in done])
        server.set_ylabel("seconds of the server for 1,000 items")
    return [_saved(figure, folder / f"{comparison.split}-compare.png")]


def _bars(
    axes: mpl.axes.Axes, groups: list[str], names: list[str], values: list[list[float]]
) -> None:
    """Bars of each name, in groups."""
    width = 0.8 / len(names)
    for n, (name, heights) in enumerate(zip(names, values, strict=True)):
        axes.bar([place + n * width for place in range(len(groups))], heights, width, label=name)
    middle = width * (len(names) - 1) / 2
    axes.set_xticks([place + middle for place in range(len(groups))], groups)
    axes.legend()
