"""The clock of a run: which step is on, and which times count."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Step:
    """One level of load. Times are seconds since the run began.

    Attributes:
        number: From 0 on.
        level: Users, or requests per second.
        begins_s: From here on the load is there.
        from_s: From here on it counts.
        to_s: Here it ends.
    """

    number: int
    level: float
    begins_s: float
    from_s: float
    to_s: float


class Plan:
    """The steps of a scenario, one after another.

    Args:
        scenario: With `users` or `rates`; shares must have been turned into rates.

    Attributes:
        steps: In order.
        end_s: When the last one ends, in seconds since the run began.
    """

    def __init__(self, scenario: Scenario) -> None:
        assert not scenario.shares, "shares have no meaning before the peak is known"
        length = scenario.warm_up_s + scenario.seconds
        self.steps = tuple(
            Step(n, level, begins, begins + scenario.warm_up_s, begins + length)
            for n, level in enumerate(scenario.levels)
            for begins in [n * (length + scenario.rest_s)]
        )
        self.end_s = self.steps[-1].to_s

    def at(self, at_s: float) -> Step | None:
        """The step whose load is on at that time; None in a rest and after the end."""
        return next((step for step in self.steps if step.begins_s <= at_s < step.to_s), None)

    def users_at(self, at_s: float) -> int:
        """Users of a closed loop at that time; in a rest, already those of the next step."""
        ahead = (step for step in self.steps if at_s < step.to_s)
        return int(next(ahead, self.steps[-1]).level)

    def measured(self, at_s: float) -> int | None:
        """Number of the step that what happens at that time counts for; None if for none."""
        step = self.at(at_s)
        return step.number if step is not None and at_s >= step.from_s else None
