"""Draws PNG files: recall by dimension and by language, and embedders side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from lensemble_evaluation.comparison import Comparison, EmbedderResult, EmbeddingCost
from lensemble_evaluation.evaluate import ALL, Evaluation

METRIC = "recall_cap@10"
_STYLE: Any = {"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}


def plot_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draws recall by dimension and by language.

    A plot is left out if the evaluation has one dimension only, or no languages.

    Args:
        evaluation: The evaluation to draw.
        folder: Folder to write to; created if missing.

    Returns:
        Paths of the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        paths = [_plot_by_dimension(evaluation, folder), _plot_by_language(evaluation, folder)]
    return [path for path in paths if path is not None]


def plot_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws embedders side by side: quality by task, latency, throughput, server time.

    Args:
        comparison: The comparison to draw.
        folder: Folder to write to; created if missing.

    Returns:
        Path of the file written, in a list; empty if no embedder has figures.
    """
    measured = [(result, result.cost) for result in comparison.embedders if result.cost is not None]
    if not measured:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        figure = _draw_comparison(comparison, measured)
    return [_save(figure, folder / f"{comparison.split}-compare.png")]


def _plot_by_dimension(evaluation: Evaluation, folder: Path) -> Path | None:
    lengths = sorted({row.dimensions for row in evaluation.rows})
    if len(lengths) < 2:
        return None
    figure, axes = _make_figure(evaluation)
    for task in dict.fromkeys(row.task for row in evaluation.rows):
        values = [evaluation.row(task, ALL, length).metrics[METRIC] for length in lengths]
        axes.plot(lengths, values, marker="o", label=task)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("dimensions")
    axes.legend()
    return _save(figure, folder / f"{evaluation.split}-by-dimension.png")


def _plot_by_language(evaluation: Evaluation, folder: Path) -> Path | None:
    languages = list(dict.fromkeys(r.language for r in evaluation.rows if r.language != ALL))
    if not languages:
        return None
    figure, axes = _make_figure(evaluation)
    tasks = list(dict.fromkeys(r.task for r in evaluation.rows if r.language != ALL))
    longest = max(row.dimensions for row in evaluation.rows)
    recall = {
        (row.task, row.language): row.metrics[METRIC]
        for row in evaluation.rows
        if row.dimensions == longest
    }
    heights = [[recall.get((task, language), 0) for language in languages] for task in tasks]
    _draw_bars(axes, languages, tasks, heights)
    axes.set_xlabel("language of the query")
    return _save(figure, folder / f"{evaluation.split}-by-language.png")


def _make_figure(evaluation: Evaluation) -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(0, 1)
    axes.set_ylabel(METRIC)
    axes.set_title(f"{evaluation.dataset}, {evaluation.split} ({evaluation.corpus} items)")
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _draw_comparison(
    comparison: Comparison, measured: list[tuple[EmbedderResult, EmbeddingCost]]
) -> Figure:
    names = [result.embedder for result, _ in measured]
    costs = [cost for _, cost in measured]
    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    quality, latency, rate, server = figure.subplots(2, 2).flat
    figure.suptitle(
        f"{comparison.dataset}, {comparison.split} ({comparison.corpus} items, "
        f"{comparison.queries} queries)"
    )
    tasks = list(dict.fromkeys(row.task for row in measured[0][0].quality))
    ndcg = {
        (result.embedder, row.task): row.metrics["ndcg@10"]
        for result, _ in measured
        for row in result.quality
        if row.language == ALL
    }
    _draw_bars(quality, tasks, names, [[ndcg[name, task] for task in tasks] for name in names])
    quality.set_ylim(0, 1)
    quality.set_ylabel("ndcg@10")
    percentiles = list(costs[0].latency_ms)
    _draw_bars(latency, percentiles, names, [list(cost.latency_ms.values()) for cost in costs])
    latency.set_ylabel("ms per call, one at a time")
    medians = [cost.items_per_s["median"] for cost in costs]
    spread = [
        [cost.items_per_s["median"] - cost.items_per_s["least"] for cost in costs],
        [cost.items_per_s["most"] - cost.items_per_s["median"] for cost in costs],
    ]
    rate.bar(names, medians, yerr=spread, capsize=4)
    rate.set_ylabel(f"items/s, {comparison.concurrency} calls in flight")
    server.bar(names, [cost.server_s_per_1000 for cost in costs])
    server.set_ylabel("seconds of the server for 1,000 items")
    return figure


def _draw_bars(
    axes: mpl.axes.Axes, groups: list[str], names: list[str], heights: list[list[float]]
) -> None:
    """Draws a bar for each name in each group.

    Args:
        axes: Axes to draw on.
        groups: Labels of the groups.
        names: Labels of the bars.
        heights: Heights of the bars: for each name a list with one height for each group.
    """
    width = 0.8 / len(names)
    for n, (name, bars) in enumerate(zip(names, heights, strict=True)):
        axes.bar([group + n * width for group in range(len(groups))], bars, width, label=name)
    middle = width * (len(names) - 1) / 2
    axes.set_xticks([group + middle for group in range(len(groups))], groups)
    axes.legend()
