"""Turns of all servers -> ratios and a table. A ratio above 1 means that Lensemble is faster."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.measure import ratio
from benchmarks.peers.load import Turn

SERVED, SERVED_FP32, SERVED_ONNX = "served", "served_fp32", "served_onnx"
OURS = (SERVED, SERVED_FP32, SERVED_ONNX)

Turns = Mapping[str, Sequence[Turn]]
"""Name of a server -> its turns, one per round."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One workload.

    Attributes:
        loaded: Turns with all callers.
        alone: Turns with one.
        dtypes: Name of a server -> the precision that it computed in.
        cosines: Name of a server -> least cosine of its vectors to those of `served`.
    """

    loaded: Turns
    alone: Turns
    dtypes: Mapping[str, str]
    cosines: Mapping[str, float]

    def ratios(self) -> dict[str, Any]:
        """Median of the rounds' own ratios, each with its spread, least and most.

        `served_over_<peer>` has Lensemble in its default precision above it; `served_fp32_over_...`
        in fp32, for peers that compute in that; `served_onnx_over_...` with ONNX Runtime in fp32,
        for all; `served_over_best_peer` whichever peer was fastest in that round; `..._alone` the
        same with one caller, so of latencies.
        """
        found = _ratios(self.loaded, self.dtypes)
        return found | {
            name.replace("_spread", "_alone_spread")
            if name.endswith("_spread")
            else f"{name}_alone": value
            for name, value in _ratios(self.alone, self.dtypes).items()
        }

    def content(self) -> dict[str, Any]:
        """All of it, for the result file."""
        servers = {
            name: {
                "dtype": self.dtypes[name],
                "min_cosine": self.cosines[name],
                "loaded": [asdict(turn) for turn in self.loaded[name]],
                "alone": [asdict(turn) for turn in self.alone[name]],
            }
            for name in self.loaded
        }
        return {**self.ratios(), "servers": servers}

    def table(self) -> str:
        """A line per server, medians of the rounds; Lensembles first."""
        lines = [
            f"{'':28}{'precision':>10}{'items/s':>9}{'least-most':>14}{'p50 ms':>8}{'p99 ms':>8}"
            f"{'alone: /s':>11}{'p50 ms':>8}{'p99 ms':>8}{'cosine':>11}"
        ]
        for name, turns in self.loaded.items():
            rates = [turn.items_per_s for turn in turns]
            one = self.alone[name]
            lines.append(
                f"{name:28}{self.dtypes[name]:>10}{statistics.median(rates):9.1f}"
                f"{f'{min(rates):.1f}-{max(rates):.1f}':>14}"
                f"{_median(turns, 'p50_ms'):8.1f}{_median(turns, 'p99_ms'):8.1f}"
                f"{_median(one, 'items_per_s'):11.1f}"
                f"{_median(one, 'p50_ms'):8.1f}{_median(one, 'p99_ms'):8.1f}"
                f"{self.cosines[name]:11.7f}"
            )
        return "\n".join(lines)


def least_cosine(some: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Of vectors (N, D) to others (N, D), row by row; of any lengths, as bf16 may leave them."""
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(((some * others).sum(axis=1) / lengths).min())


def _median(turns: Sequence[Turn], name: str) -> float:
    return float(statistics.median(getattr(turn, name) for turn in turns))


def _ratios(turns: Turns, dtypes: Mapping[str, str]) -> dict[str, Any]:
    per_item = {name: [1 / turn.items_per_s for turn in some] for name, some in turns.items()}
    peers = [name for name in per_item if name not in OURS]
    found: dict[str, Any] = {}
    for peer in peers:
        found |= ratio(f"{SERVED}_over_{peer}", per_item[peer], per_item[SERVED])
        if SERVED_FP32 in per_item and dtypes[peer] == "fp32":
            found |= ratio(f"{SERVED_FP32}_over_{peer}", per_item[peer], per_item[SERVED_FP32])
        if SERVED_ONNX in per_item:
            found |= ratio(f"{SERVED_ONNX}_over_{peer}", per_item[peer], per_item[SERVED_ONNX])
    best = [min(seconds) for seconds in zip(*(per_item[peer] for peer in peers), strict=True)]
    return found | ratio(f"{SERVED}_over_best_peer", best, per_item[SERVED])
