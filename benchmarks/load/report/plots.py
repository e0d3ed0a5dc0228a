"""Plots of a run: latency against load, time per stage, batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.monitoring.triton_statistics import STAGES
from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.report.run_result import RunResult
from benchmarks.load.report.step_summary import Summary
from lensemble_contract import contract

_SIZE = (7.0, 4.0)
_ENSEMBLES = {model.name for model in contract.ALL_MODELS.values() if model.steps}
_LEAST_MS = 0.1
_LINES = ("p50_ms", "p95_ms", "p99_ms")


def draw_plots(result: RunResult, out: Path) -> list[Path]:
    """Writes PNG files.

    Args:
        result: Result of the run.
        out: Folder of the files.

    Returns:
        The files that were written; without Triton's statistics, only the first.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for name, paint in (("latency", _latency), ("stages", _stages), ("batches", _batches)):
        figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
        if paint(axes, result):
            written.append(out / f"{name}.png")
            figure.savefig(written[-1], dpi=120)
        pyplot.close(figure)
    return written


def _unit(result: RunResult) -> str:
    return "users" if result.scenario.loop == "closed" else "requests per second asked for"


def _latency(axes: Any, result: RunResult) -> bool:
    levels = [step["level"] for step in result.steps]
    for key in _LINES:
        values = [step["kinds"][ALL][key] or float("nan") for step in result.steps]
        axes.plot(levels, values, marker="o", label=key.removesuffix("_ms"))
    answered = [step["kinds"][ALL]["requests_per_s"] for step in result.steps]
    throughput_axes = axes.twinx()
    throughput_axes.plot(levels, answered, color="grey", linestyle="--", marker="x")
    throughput_axes.set_ylabel("answers per second (dashed)")
    throughput_axes.set_ylim(bottom=0)
    axes.set(xlabel=_unit(result), ylabel="latency, ms", title=result.scenario.name)
    if any(step["kinds"][ALL]["p50_ms"] for step in result.steps):
        axes.set_yscale("log")
    axes.legend()
    return True


def steps_with_models(steps: Sequence[Summary]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the level and the models of each step that has statistics.

    Ensembles are left out: Triton adds up their steps for them, so that these would be drawn twice.

    Args:
        steps: Steps of a `RunResult`.
    """
    for step in steps:
        models = {
            name: counts
            for name, counts in step["server"].get("models", {}).items()
            if counts["executions"] and name not in _ENSEMBLES
        }
        if models:
            yield f"{step['level']:.4g}", models


def lane_parts(step: Summary) -> dict[tuple[str, str], float]:
    """Returns the time that the encoder's lanes add: mean milliseconds over all rows of a step.

    Args:
        step: Step of a `RunResult`.
    """
    lanes = step["server"].get("lanes", {}).values()
    items = step["server"].get("models", {}).get(contract.QWEN3_VL.name, {}).get("items")
    if not lanes or not items:
        return {}
    return {
        ("lanes", label): sum(lane["rows"] * lane[key] for lane in lanes) / items
        for label, key in (("waiting", "waited_ms"), ("passes", "pass_ms"))
    }


def _stages(axes: Any, result: RunResult) -> bool:
    from matplotlib import colormaps

    steps = [
        {
            **{
                (name, stage): counts[f"{stage}_ms"]
                for name, counts in models.items()
                for stage in STAGES
            },
            **lane_parts(step),
        }
        for step in result.steps
        for _, models in steps_with_models([step])
    ]
    levels = [level for level, _ in steps_with_models(result.steps)]
    parts = {part: None for step in steps for part, ms in step.items() if ms >= _LEAST_MS}
    base = [0.0] * len(steps)
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))  # the default cycle has only ten
    for model, stage in parts:
        heights = [step.get((model, stage), 0.0) for step in steps]
        axes.bar(levels, heights, bottom=base, label=f"{model} {stage}")
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axes.set(xlabel=_unit(result), ylabel="ms of a request, mean", title="where the time goes")
    if parts:
        axes.legend(fontsize="x-small")
    return bool(parts)


def _batches(axes: Any, result: RunResult) -> bool:
    steps = list(steps_with_models(result.steps))
    if not steps:
        return False
    level, models = steps[-1]
    for model, counts in models.items():
        sizes = {int(size): count for size, count in counts["batches"].items()}
        items = sum(size * count for size, count in sizes.items()) or 1
        shares = [size * count / items for size, count in sizes.items()]
        axes.bar(list(sizes), shares, alpha=0.7, label=model)
    axes.set(
        xlabel="items in a batch",
        ylabel="share of items",
        title=f"batches at {level} {_unit(result)}",
    )
    axes.legend()
    return True
