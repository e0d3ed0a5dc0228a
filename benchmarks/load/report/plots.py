"""Plots of a run: latency against load, where the time went, batch sizes seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.report.outcome import Outcome
from benchmarks.load.report.step_figures import Figures
from benchmarks.load.report.tally import ALL
from benchmarks.load.watch.statistics import STAGES
from lensemble_contract import contract

_SIZE = (7.0, 4.0)
_ENSEMBLES = {model.name for model in contract.ALL_MODELS.values() if model.steps}
_LEAST_MS = 0.1
_LINES = ("p50_ms", "p95_ms", "p99_ms")


def draw(outcome: Outcome, out: Path) -> list[Path]:
    """Writes PNG files.

    Args:
        outcome: Of the run.
        out: Their folder.

    Returns:
        Those written; without Triton's statistics, the first alone.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for name, paint in (("latency", _latency), ("stages", _stages), ("batches", _batches)):
        figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
        if paint(axes, outcome):
            written.append(out / f"{name}.png")
            figure.savefig(written[-1], dpi=120)
        pyplot.close(figure)
    return written


def _unit(outcome: Outcome) -> str:
    return "users" if outcome.scenario.loop == "closed" else "requests per second asked for"


def _latency(axes: Any, outcome: Outcome) -> bool:
    levels = [step["level"] for step in outcome.steps]
    for key in _LINES:
        values = [step["kinds"][ALL][key] or float("nan") for step in outcome.steps]
        axes.plot(levels, values, marker="o", label=key.removesuffix("_ms"))
    answered = [step["kinds"][ALL]["requests_per_s"] for step in outcome.steps]
    beside = axes.twinx()
    beside.plot(levels, answered, color="grey", linestyle="--", marker="x")
    beside.set_ylabel("answers per second (dashed)")
    beside.set_ylim(bottom=0)
    axes.set(xlabel=_unit(outcome), ylabel="latency, ms", title=outcome.scenario.name)
    if any(step["kinds"][ALL]["p50_ms"] for step in outcome.steps):
        axes.set_yscale("log")
    axes.legend()
    return True


def steps_with_models(steps: Sequence[Figures]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Level and models of each step that has statistics.

    Without ensembles: Triton gives them the sum of their steps, which would be drawn twice.

    Args:
        steps: As `Outcome` has them.
    """
    for step in steps:
        models = {
            name: one
            for name, one in step["server"].get("models", {}).items()
            if one["executions"] and name not in _ENSEMBLES
        }
        if models:
            yield f"{step['level']:.4g}", models


def lane_parts(step: Figures) -> dict[tuple[str, str], float]:
    """What the encoder's lanes add to a request's way: mean milliseconds over all of its rows.

    Args:
        step: As `Outcome` has it.
    """
    lanes = step["server"].get("lanes", {}).values()
    items = step["server"].get("models", {}).get(contract.QWEN3_VL.name, {}).get("items")
    if not lanes or not items:
        return {}
    return {
        ("lanes", said): sum(one["rows"] * one[key] for one in lanes) / items
        for said, key in (("waiting", "waited_ms"), ("passes", "pass_ms"))
    }


def _stages(axes: Any, outcome: Outcome) -> bool:
    from matplotlib import colormaps

    steps = [
        {
            **{
                (name, stage): one[f"{stage}_ms"]
                for name, one in models.items()
                for stage in STAGES
            },
            **lane_parts(step),
        }
        for step in outcome.steps
        for _, models in steps_with_models([step])
    ]
    levels = [level for level, _ in steps_with_models(outcome.steps)]
    parts = {part: None for step in steps for part, ms in step.items() if ms >= _LEAST_MS}
    base = [0.0] * len(steps)
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))  # ten would repeat themselves
    for model, stage in parts:
        heights = [step.get((model, stage), 0.0) for step in steps]
        axes.bar(levels, heights, bottom=base, label=f"{model} {stage}")
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axes.set(xlabel=_unit(outcome), ylabel="ms of a request, mean", title="where the time goes")
    if parts:
        axes.legend(fontsize="x-small")
    return bool(parts)


def _batches(axes: Any, outcome: Outcome) -> bool:
    steps = list(steps_with_models(outcome.steps))
    if not steps:
        return False
    level, models = steps[-1]
    for model, one in models.items():
        sizes = {int(size): count for size, count in one["batches"].items()}
        items = sum(size * count for size, count in sizes.items()) or 1
        shares = [size * count / items for size, count in sizes.items()]
        axes.bar(list(sizes), shares, alpha=0.7, label=model)
    axes.set(
        xlabel="items in a batch",
        ylabel="share of items",
        title=f"batches at {level} {_unit(outcome)}",
    )
    axes.legend()
    return True
