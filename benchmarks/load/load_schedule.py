"""The clock of a run: which step is running at a given time, and which times are measured."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One level of load. Times are seconds since the run began.

    Attributes:
        number: Position of the step, from 0 on.
        level: Number of users, or requests per second.
        begins_s: When the load (and the warm-up) begins.
        from_s: When the warm-up ends and measuring begins.
        to_s: When the step ends.
    """

    number: int
    level: float
    begins_s: float
    from_s: float
    to_s: float


class LoadSchedule:
    """The steps of a scenario, one after another.

    Args:
        scenario: Scenario with `users` or `rates`; `shares` must have been turned into rates.

    Attributes:
        steps: The steps in order.
        end_s: When the last step ends, in seconds since the run began.
    """

    def __init__(self, scenario: Scenario) -> None:
        assert not scenario.shares, "shares have no meaning before the peak is known"
        length = scenario.warm_up_s + scenario.seconds
        self.steps = tuple(
            LoadStep(n, level, begins, begins + scenario.warm_up_s, begins + length)
            for n, level in enumerate(scenario.levels)
            for begins in [n * (length + scenario.rest_s)]
        )
        self.end_s = self.steps[-1].to_s

    def at(self, at_s: float) -> LoadStep | None:
        """Returns the step that runs at a time; None in a rest and after the end."""
        return next((step for step in self.steps if step.begins_s <= at_s < step.to_s), None)

    def users_at(self, at_s: float) -> int:
        """Returns the users of a closed loop at a time; a rest has those of the next step."""
        remaining = (step for step in self.steps if at_s < step.to_s)
        return int(next(remaining, self.steps[-1]).level)

    def measured_step(self, at_s: float) -> int | None:
        """Returns the number of the step that measures at a time; None outside measured times."""
        step = self.at(at_s)
        return step.number if step is not None and at_s >= step.from_s else None
