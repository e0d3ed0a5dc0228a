"""Checks whether memory or open files grew during a long run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.monitoring.sampler import Sample
from benchmarks.load.report.limits import Failure
from benchmarks.load.scenario import Scenario

# In a short run, the first 1 / _SETTLE_PARTS of the time is not judged.
_SETTLE_PARTS = 6
# The values at the beginning and at the end are medians over 1 / _WINDOW_PARTS of the samples each,
# because a single sample is noisy.
_WINDOW_PARTS = 10
_MIN_SAMPLES = 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure at the beginning and at the end of the judged time.

    Attributes:
        name: Process and figure, such as `qwen3_vl resident_bytes`.
        before: Value once the run has settled.
        after: Value at the end.
        allowed: Largest value at the end that does not count as growth.
        allowed_share: Largest share of `before` by which it may grow.
    """

    name: str
    before: float
    after: float
    allowed: float
    allowed_share: float

    @property
    def growth(self) -> float:
        """Share by which the figure grew; negative if it shrank."""
        return self.after / self.before - 1 if self.before else float(self.after > 0)

    @property
    def grew(self) -> bool:
        """Whether it grew more than allowed."""
        return self.after > self.allowed


def measure_growth(scenario: Scenario, samples: Sequence[Sample], began: float) -> list[Growth]:
    """Measures the growth of each process's memory and open files, and of shared and GPU memory.

    Locust's own processes do not belong to the server and are left out.

    Args:
        scenario: Scenario with a soak.
        samples: Samples as `Sampler` takes them.
        began: When the run began, in seconds since 1970.

    Returns:
        One entry per figure; empty if there were too few samples.
    """
    soak, schedule = scenario.soak, LoadSchedule(scenario)
    assert soak is not None
    settle_s = min(soak.settle_s, schedule.end_s / _SETTLE_PARTS)
    judged = [s for s in samples if began + settle_s <= s["at"] <= began + schedule.end_s]
    if len(judged) < _MIN_SAMPLES:
        return []
    growths = []
    memory, files = soak.slack_mib * _MIB, float(soak.slack_files)
    for name in sorted({name for s in judged for name in s["processes"]} - {"locust"}):
        for key, slack in (("resident_bytes", memory), ("files", files)):
            values = (s["processes"].get(name, {}).get(key) for s in judged)
            growths.append(_growth(f"{name} {key}", values, slack, soak.growth))
    shared = (s.get("shared_memory_bytes") for s in judged)
    growths.append(_growth("shared_memory_bytes", shared, memory, soak.growth))
    gpu = (s["gpu"]["memory_mib"] if s["gpu"] else None for s in judged)
    growths.append(_growth("gpu memory_mib", gpu, soak.slack_mib, soak.growth))
    return [growth for growth in growths if growth is not None]


def _growth(
    name: str, values: Iterable[float | None], slack: float, allowed_share: float
) -> Growth | None:
    known = [value for value in values if value is not None]
    if len(known) < _MIN_SAMPLES:
        return None
    window = max(1, len(known) // _WINDOW_PARTS)
    before, after = statistics.median(known[:window]), statistics.median(known[-window:])
    allowed = max(before * (1 + allowed_share), before + slack)
    return Growth(name, before, after, allowed, allowed_share)


def find_failures(growths: Sequence[Growth] | None) -> list[Failure]:
    """Returns a failure for each figure that grew more than allowed.

    Args:
        growths: What `measure_growth` returned; None if nothing was to be judged.
    """
    if growths is None:
        return []
    if not growths:
        return [Failure("soak: looks at the server", "min_looks", _MIN_SAMPLES, None)]
    return [
        Failure(f"soak: {growth.name}", "max_growth", growth.allowed_share, growth.growth)
        for growth in growths
        if growth.grew
    ]
