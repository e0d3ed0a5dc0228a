"""The plot of recall against speed, for all corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.search.corpora import CORPORA, PEERS
from benchmarks.search.in_process import OperatingPoint


def plot(points: Sequence[OperatingPoint], path: Path) -> Path:
    """Draws recall@10 against queries per second at batch 32, one panel per corpus.

    Args:
        points: Measured operating points.
        path: PNG file to write.

    Returns:
        The path.
    """
    corpora = list(dict.fromkeys(point.corpus for point in points))
    kinds = list(dict.fromkeys(point.kind for point in points))
    colours = dict(zip(kinds, mpl.color_sequences["tab10"], strict=False))
    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(4 * len(corpora) + 1, 4.2), dpi=120, layout="constrained")
        panels = figure.subplots(1, len(corpora), squeeze=False)[0]
        for axes, corpus in zip(panels, corpora, strict=True):
            for kind in kinds:
                of_kind = [p for p in points if (p.corpus, p.kind) == (corpus, kind)]
                axes.plot(
                    [p.recall_at_10 for p in of_kind],
                    [p.b32.queries_per_s for p in of_kind],
                    color=colours[kind],
                    marker="o",
                    linestyle="--" if kind in PEERS else "-",
                    label=kind,
                )
            axes.set_yscale("log")
            axes.set_title(str(CORPORA.get(corpus, corpus)))
            axes.set_xlabel("recall@10")
        panels[0].set_ylabel("queries/s, batch 32, one thread")
        panels[0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path
