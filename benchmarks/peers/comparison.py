"""Ratios and a table of the turns of all servers. Lensemble is faster if a ratio is above 1."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.timing import ratio
from benchmarks.peers.load_generator import Turn

SERVED, SERVED_FP32, SERVED_ONNX = "served", "served_fp32", "served_onnx"
OURS = (SERVED, SERVED_FP32, SERVED_ONNX)

# Name of a server -> its turns, one per round.
Turns = Mapping[str, Sequence[Turn]]


@dataclass(frozen=True, slots=True)
class PeerComparison:
    """The comparison of all servers on one workload.

    Attributes:
        loaded: Turns with all callers.
        alone: Turns with a single caller.
        dtypes: Name of a server -> its precision.
        cosines: Name of a server -> smallest cosine of its vectors to those of `served`.
    """

    loaded: Turns
    alone: Turns
    dtypes: Mapping[str, str]
    cosines: Mapping[str, float]

    def ratios(self) -> dict[str, Any]:
        """Returns ratios of items per second: medians over the rounds, with their spread.

        `served_over_<peer>` is Lensemble in its default precision over a peer. The others are
        `served_fp32_over_<peer>` for peers in fp32, `served_onnx_over_<peer>` for Lensemble with
        ONNX Runtime in fp32, `served_over_best_peer` for the fastest peer of each round, and
        `..._alone` for a single caller, which compares latencies.
        """
        return _ratios(self.loaded, self.dtypes) | {
            name.replace("_spread", "_alone_spread")
            if name.endswith("_spread")
            else f"{name}_alone": value
            for name, value in _ratios(self.alone, self.dtypes).items()
        }

    def content(self) -> dict[str, Any]:
        """Returns everything, for the result file."""
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
        """Returns one line per server with medians over the rounds, Lensemble first."""
        lines = [
            f"{'':28}{'precision':>10}{'items/s':>9}{'least-most':>14}{'p50 ms':>8}{'p99 ms':>8}"
            f"{'alone: /s':>11}{'p50 ms':>8}{'p99 ms':>8}{'cosine':>11}"
        ]
        for name, turns in self.loaded.items():
            rates = [turn.items_per_s for turn in turns]
            alone = self.alone[name]
            lines.append(
                f"{name:28}{self.dtypes[name]:>10}{statistics.median(rates):9.1f}"
                f"{f'{min(rates):.1f}-{max(rates):.1f}':>14}"
                f"{_median(turns, 'p50_ms'):8.1f}{_median(turns, 'p99_ms'):8.1f}"
                f"{_median(alone, 'items_per_s'):11.1f}"
                f"{_median(alone, 'p50_ms'):8.1f}{_median(alone, 'p99_ms'):8.1f}"
                f"{self.cosines[name]:11.7f}"
            )
        return "\n".join(lines)


def smallest_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Returns the smallest cosine between rows of (N, D) vectors of any length.

    The vectors are normalised here, because those of a peer in bf16 are not exactly of unit length.
    """
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / lengths).min())


def _median(turns: Sequence[Turn], name: str) -> float:
    return float(statistics.median(getattr(turn, name) for turn in turns))


def _ratios(turns: Turns, dtypes: Mapping[str, str]) -> dict[str, Any]:
    per_item = {name: [1 / turn.items_per_s for turn in rounds] for name, rounds in turns.items()}
    peers = [name for name in per_item if name not in OURS]
    ratios: dict[str, Any] = {}
    for peer in peers:
        ratios |= ratio(f"{SERVED}_over_{peer}", per_item[peer], per_item[SERVED])
        if SERVED_FP32 in per_item and dtypes[peer] == "fp32":
            ratios |= ratio(f"{SERVED_FP32}_over_{peer}", per_item[peer], per_item[SERVED_FP32])
        if SERVED_ONNX in per_item:
            ratios |= ratio(f"{SERVED_ONNX}_over_{peer}", per_item[peer], per_item[SERVED_ONNX])
    best = [min(seconds) for seconds in zip(*(per_item[peer] for peer in peers), strict=True)]
    return ratios | ratio(f"{SERVED}_over_best_peer", best, per_item[SERVED])
