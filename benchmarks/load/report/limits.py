"""Checks whether the steps of a run met the limits of the scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.report.step_summary import Summary
from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Failure:
    """One limit that was not met.

    Attributes:
        where: Step, or part of a soak, for people.
        limit: Key of the limit in the scenario.
        limit_value: Value of the limit.
        measured: Measured value; None if nothing could be measured.
    """

    where: str
    limit: str
    limit_value: float
    measured: float | None


def find_failures(scenario: Scenario, steps: Sequence[Summary]) -> list[Failure]:
    """Returns all limits that the steps did not meet.

    A step in which nothing was answered meets no limit on latency or throughput. A step in which no
    request began has failed, whatever the limits are.

    Args:
        scenario: Scenario with its limits.
        steps: Steps as `step_summary.summarize_steps` returns them.
    """
    limits = scenario.limits
    failures = []
    for step in steps:
        if not step["kinds"][ALL]["started"]:
            failures.append(Failure(name_of_step(scenario, step), "min_started", 1, 0))
            continue
        level = step["share" if "share" in step else "level"]
        if limits.up_to is not None and level > limits.up_to:
            continue
        for name, limit in limits.model_dump(exclude={"up_to"}, exclude_none=True).items():
            bound, key = name.split("_", 1)
            value = step["kinds"][ALL][key]
            if not is_met(bound, value, limit):
                failures.append(Failure(name_of_step(scenario, step), name, limit, value))
    return failures


def is_met(bound: str, value: float | None, limit: float) -> bool:
    """Tells whether a value meets a limit; a value that could not be measured does not.

    Args:
        bound: `max` or `min`.
        value: Measured value.
        limit: The limit.
    """
    if value is None:
        return False
    return value <= limit if bound == "max" else value >= limit


def name_of_step(scenario: Scenario, step: Summary) -> str:
    """Returns the name of a step for people, such as `8 users`."""
    level = f"{step['level']:.4g}"
    return f"{level} users" if scenario.loop == "closed" else f"{level} requests/s"


def format_failures(failures: Sequence[Failure]) -> str:
    """Returns the limits that were not met as a table for people."""
    lines = [f"{'FAILED':20} {'limit':18} {'wanted':>12} {'measured':>12}"]
    for failure in failures:
        sign = ">=" if failure.limit.startswith("min_") else "<="
        value = "nothing" if failure.measured is None else f"{failure.measured:.6g}"
        expected = f"{sign} {failure.limit_value:g}"
        lines.append(f"{failure.where:20} {failure.limit:18} {expected:>12} {value:>12}")
    return "\n".join(lines)
