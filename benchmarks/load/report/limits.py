"""Pass or fail: what the steps of a run must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.report.step_figures import Figures
from benchmarks.load.report.tally import ALL
from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Failure:
    """One limit that was not kept.

    Attributes:
        where: Which step, or which part of a soak.
        limit: Key of the scenario.
        wanted: Its value.
        found: What was measured; None if nothing was.
    """

    where: str
    limit: str
    wanted: float
    found: float | None


def failures(scenario: Scenario, steps: Sequence[Figures]) -> list[Failure]:
    """All limits that a step did not keep.

    A step in which nothing was answered keeps no limit on latency or throughput, and one in which
    no request began has failed whatever the limits.

    Args:
        scenario: With its limits.
        steps: As `outcome.figures` gives them.
    """
    limits = scenario.limits
    found = []
    for step in steps:
        if not step["kinds"][ALL]["started"]:
            found.append(Failure(where_of(scenario, step), "min_started", 1, 0))
            continue
        level = step["share" if "share" in step else "level"]
        if limits.up_to is not None and level > limits.up_to:
            continue
        for name, wanted in limits.model_dump(exclude={"up_to"}, exclude_none=True).items():
            bound, key = name.split("_", 1)
            value = step["kinds"][ALL][key]
            if not kept(bound, value, wanted):
                found.append(Failure(where_of(scenario, step), name, wanted, value))
    return found


def kept(bound: str, value: float | None, wanted: float) -> bool:
    """Whether a value keeps a limit; one that could not be measured does not.

    Args:
        bound: `max` or `min`.
        value: Measured.
        wanted: The limit.
    """
    if value is None:
        return False
    return value <= wanted if bound == "max" else value >= wanted


def where_of(scenario: Scenario, step: Figures) -> str:
    """A step for people, such as `8 users`."""
    level = f"{step['level']:.4g}"
    return f"{level} users" if scenario.loop == "closed" else f"{level} requests/s"


def table_of(failed: Sequence[Failure]) -> str:
    """The limits that were not kept, for people."""
    lines = [f"{'FAILED':20} {'limit':18} {'wanted':>12} {'measured':>12}"]
    for one in failed:
        sign = ">=" if one.limit.startswith("min_") else "<="
        value = "nothing" if one.found is None else f"{one.found:.6g}"
        lines.append(f"{one.where:20} {one.limit:18} {sign + f' {one.wanted:g}':>12} {value:>12}")
    return "\n".join(lines)
