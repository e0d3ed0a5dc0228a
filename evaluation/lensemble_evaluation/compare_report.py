"""A comparison as a table, as JSON, and as a plot."""

from __future__ import annotations

import json
from pathlib import Path

from lensemble_evaluation.compare import Compared, Comparison
from lensemble_evaluation.evaluate import ALL

METRICS = ("recall@1", "recall@5", "recall@10", "ndcg@10")
_WIDTH = 12


def table(comparison: Comparison) -> str:
    """Lines of text: what each embedder takes, then how well it finds, task by task."""
    done = [one for one in comparison.embedders if one.cost is not None]
    lines = [
        f"{comparison.dataset}, split {comparison.split}: {comparison.corpus} items, "
        f"{comparison.queries} queries, {comparison.server}"
    ]
    if done:
        lines += ["", *_costs(comparison, done), "", *_quality(done)]
    notes = _notes(comparison)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _costs(comparison: Comparison, done: list[Compared]) -> list[str]:
    priced = comparison.price_per_hour is not None
    heads = ["dim", "p50 ms", "p95 ms", "p99 ms", "items/s", "least", "most", "tokens", "s/1000"]
    lines = [_line("embedder", [*heads, *(["price/1000"] if priced else [])])]
    for one in done:
        cost = one.cost
        assert cost is not None
        cells = [
            str(one.dimension),
            *(f"{value:.1f}" for value in cost.latency_ms.values()),
            *(f"{value:.1f}" for value in cost.items_per_s.values()),
            f"{cost.tokens_per_item:.1f}",
            f"{cost.server_s_per_1000:.1f}",
        ]
        if cost.price_per_1000 is not None:
            cells.append(f"{cost.price_per_1000:.4f}")
        lines.append(_line(one.embedder, cells))
    first = done[0].cost
    assert first is not None
    lines.append(
        f"latency: {first.samples} calls, one at a time; items/s: median, least and most of "
        f"{first.blocks} blocks, {comparison.concurrency} calls under way"
    )
    return lines


def _quality(done: list[Compared]) -> list[str]:
    tasks = list(dict.fromkeys(row.task for row in done[0].quality))
    width = max(map(len, ["task", *tasks])) + 2
    lines = [f"{'task':{width}}{_line('embedder', ['queries', *METRICS])}"]
    for task in tasks:
        for one in done:
            (row,) = [r for r in one.quality if (r.task, r.language) == (task, ALL)]
            cells = [str(row.queries), *(f"{row.metrics[name]:.3f}" for name in METRICS)]
            lines.append(f"{task:{width}}{_line(one.embedder, cells)}")
    return lines


def _notes(comparison: Comparison) -> list[str]:
    lines = []
    for one in comparison.embedders:
        if one.error:
            lines.append(f"{one.embedder}: no figures: {one.error}")
        if one.without_instruction:
            lines.append(
                f"{one.embedder}: takes no instruction; {one.without_instruction} items were "
                "embedded without theirs"
            )
    return lines


def _line(name: str, cells: list[str]) -> str:
    return f"{name:10}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)


def save(comparison: Comparison, path: Path) -> None:
    """Writes a comparison as JSON: the fields of `Comparison`.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")
