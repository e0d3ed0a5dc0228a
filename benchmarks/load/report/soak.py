"""Whether anything grew during a long run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.load.plan import Plan
from benchmarks.load.report.limits import Failure
from benchmarks.load.scenario import Scenario
from benchmarks.load.watch.watch import Sample

_SETTLES = 6
"""Of a short run, one part in so many is not judged."""
_PARTS = 10
"""Beginning and end are each the median of one part in so many: one look alone is noise."""
_LEAST = 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure at the beginning and at the end of the judged time.

    Attributes:
        name: Such as `qwen3_vl resident_bytes`.
        before: Once settled.
        after: In the end.
        allowed: Largest value in the end that is no growth.
        wanted: The same as a share of `before`.
    """

    name: str
    before: float
    after: float
    allowed: float
    wanted: float

    @property
    def growth(self) -> float:
        """Share by which it grew; below 0 if it shrank."""
        return self.after / self.before - 1 if self.before else float(self.after > 0)

    @property
    def grew(self) -> bool:
        """Whether that is more than may be."""
        return self.after > self.allowed


def judged(scenario: Scenario, samples: Sequence[Sample], began: float) -> list[Growth]:
    """Growth of each process's memory and open files, of shared memory, and of GPU memory.

    Locust's own processes are not the server's, and are left out.

    Args:
        scenario: With a soak.
        samples: As `Watch` has them.
        began: When the run did, in seconds since 1970.

    Returns:
        Empty if there were too few looks to tell.
    """
    soak, plan = scenario.soak, Plan(scenario)
    assert soak is not None
    settled = min(soak.settle_s, plan.end_s / _SETTLES)
    inside = [s for s in samples if began + settled <= s["at"] <= began + plan.end_s]
    if len(inside) < _LEAST:
        return []
    found = []
    memory, files = soak.slack_mib * _MIB, float(soak.slack_files)
    for name in sorted({name for s in inside for name in s["processes"]} - {"locust"}):
        for key, slack in (("resident_bytes", memory), ("files", files)):
            values = (s["processes"].get(name, {}).get(key) for s in inside)
            found.append(_grown(f"{name} {key}", values, slack, soak.growth))
    shared = (s.get("shared_memory_bytes") for s in inside)
    found.append(_grown("shared_memory_bytes", shared, memory, soak.growth))
    cards = (s["gpu"]["memory_mib"] if s["gpu"] else None for s in inside)
    found.append(_grown("gpu memory_mib", cards, soak.slack_mib, soak.growth))
    return [one for one in found if one is not None]


def _grown(name: str, values: Iterable[float | None], slack: float, growth: float) -> Growth | None:
    there = [value for value in values if value is not None]
    if len(there) < _LEAST:
        return None
    part = max(1, len(there) // _PARTS)
    before, after = statistics.median(there[:part]), statistics.median(there[-part:])
    return Growth(name, before, after, max(before * (1 + growth), before + slack), growth)


def failures(grown: Sequence[Growth] | None) -> list[Failure]:
    """What grew more than it may.

    Args:
        grown: As `judged` gives it; None if nothing was to be judged.
    """
    if grown is None:
        return []
    if not grown:
        return [Failure("soak: looks at the server", "min_looks", _LEAST, None)]
    return [
        Failure(f"soak: {one.name}", "max_growth", one.wanted, one.growth)
        for one in grown
        if one.grew
    ]
