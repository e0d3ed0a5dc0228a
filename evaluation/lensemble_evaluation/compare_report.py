"""Formats a comparison as tables: costs, then quality."""

from __future__ import annotations

from lensemble_evaluation.comparison import Comparison, EmbedderResult
from lensemble_evaluation.evaluate import ALL

METRICS = ("recall@1", "recall@5", "recall@10", "ndcg@10")
_WIDTH = 12


def format_table(comparison: Comparison) -> str:
    """Formats the costs per embedder, the quality per task and embedder, and notes."""
    measured = [result for result in comparison.embedders if result.cost is not None]
    lines = [
        f"{comparison.dataset}, split {comparison.split}: {comparison.corpus} items, "
        f"{comparison.queries} queries, {comparison.server}"
    ]
    if measured:
        lines += ["", *_cost_lines(comparison, measured), "", *_quality_lines(measured)]
    notes = _notes(comparison)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _cost_lines(comparison: Comparison, measured: list[EmbedderResult]) -> list[str]:
    with_price = comparison.price_per_hour is not None
    headings = ["dim", "p50 ms", "p95 ms", "p99 ms", "items/s", "least", "most", "tokens", "s/1000"]
    lines = [_line("embedder", [*headings, *(["price/1000"] if with_price else [])])]
    for result in measured:
        cost = result.cost
        assert cost is not None
        cells = [
            str(result.dimension),
            *(f"{value:.1f}" for value in cost.latency_ms.values()),
            *(f"{value:.1f}" for value in cost.items_per_s.values()),
            f"{cost.tokens_per_item:.1f}",
            f"{cost.server_s_per_1000:.1f}",
        ]
        if cost.price_per_1000 is not None:
            cells.append(f"{cost.price_per_1000:.4f}")
        lines.append(_line(result.embedder, cells))
    first = measured[0].cost
    assert first is not None
    lines.append(
        f"latency: {first.samples} calls, one at a time; items/s: median, least and most of "
        f"{first.blocks} blocks, {comparison.concurrency} calls in flight"
    )
    return lines


def _quality_lines(measured: list[EmbedderResult]) -> list[str]:
    tasks = list(dict.fromkeys(row.task for row in measured[0].quality))
    width = max(map(len, ["task", *tasks])) + 2
    lines = [f"{'task':{width}}{_line('embedder', ['queries', *METRICS])}"]
    for task in tasks:
        for result in measured:
            (row,) = [r for r in result.quality if (r.task, r.language) == (task, ALL)]
            cells = [str(row.queries), *(f"{row.metrics[name]:.3f}" for name in METRICS)]
            lines.append(f"{task:{width}}{_line(result.embedder, cells)}")
    return lines


def _notes(comparison: Comparison) -> list[str]:
    lines = []
    for result in comparison.embedders:
        if result.error:
            lines.append(f"{result.embedder}: no figures: {result.error}")
        if result.without_instruction:
            lines.append(
                f"{result.embedder}: takes no instruction; {result.without_instruction} items were "
                "embedded without theirs"
            )
    return lines


def _line(name: str, cells: list[str]) -> str:
    return f"{name:10}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)
