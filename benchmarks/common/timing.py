"""Times contenders by turns, and compares them by ratios with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def time_in_turn(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Times contenders by turns, so that anything that disturbs the machine disturbs all of them.

    Args:
        contenders: Name -> function to time.
        rounds: Number of timed rounds.
        warm_up: Number of rounds before those, which are not timed.

    Returns:
        Name -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(name: str, slow: list[float], fast: list[float]) -> dict[str, float | list[float]]:
    """Returns how many times faster one contender is: the median of the ratios of each round.

    Args:
        name: Key of the ratio; its spread (smallest and largest) is `<name>_spread`.
        slow: Seconds of each round of the contender that is expected to be slower.
        fast: Seconds of the same rounds of the other contender.
    """
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    return {
        name: round(statistics.median(ratios), 2),
        f"{name}_spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of each figure over rounds, which all have the same figures."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def format_ratios(results: Mapping[str, Any]) -> list[str]:
    """Returns a line of text for each ratio among results, as `ratio` returns them."""
    lines = []
    for key, value in results.items():
        if isinstance(value, float):
            smallest, largest = results[f"{key}_spread"]
            lines.append(f"  {key:38} {value:6.2f}  ({smallest:.2f} to {largest:.2f})")
    return lines
