"""Open loop: requests start when they are due, whether or not earlier ones are answered.

Callers of a real service do not wait for each other. A closed loop asks less of a server that is
slow, and so leaves out the very requests that would have waited ("coordinated omission"). Here
every request has a time at which it was to start, and its latency is counted from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.load.plan import Plan
from benchmarks.load.scenario import Action

_SEED = 2_026


def schedule(plan: Plan, arrivals: str, worker: int = 0, workers: int = 1) -> Iterator[float]:
    """When requests are due, in seconds since the run began, rising.

    All workers draw the same times and take them in turn: together they are evenly
    spaced, or Poisson, as one process would be.

    Args:
        plan: Its levels are requests per second.
        arrivals: `constant` or `poisson`.
        worker: Which one this is, from 0 on.
        workers: How many there are.
    """
    rng = np.random.default_rng(_SEED)
    number = 0
    for step in plan.steps:
        count = 0
        due = step.begins_s if arrivals == "constant" else step.begins_s + _gap(rng, step.level)
        while due < step.to_s:
            if number % workers == worker:
                yield due
            number += 1
            count += 1
            if arrivals == "constant":
                due = step.begins_s + count / step.level
            else:
                due += _gap(rng, step.level)


def _gap(rng: np.random.Generator, rate: float) -> float:
    return float(rng.exponential(1 / rate))


class Turns:
    """Actions in turn, each as often as its weight says and as evenly as can be."""

    def __init__(self, actions: tuple[Action, ...]) -> None:
        self._actions = actions
        self._credit = [0] * len(actions)

    def next(self) -> Action:
        """The next one."""
        self._credit = [
            credit + action.weight
            for credit, action in zip(self._credit, self._actions, strict=True)
        ]
        chosen = self._credit.index(max(self._credit))
        self._credit[chosen] -= sum(action.weight for action in self._actions)
        return self._actions[chosen]


class OpenLoop:
    """Starts requests at their times; never waits for one.

    Args:
        in_flight: Requests under way at most. One that is due while all places are taken is not
            sent, then or later: to let it wait would be to make the generator the queue.
        clock: Seconds since the run began.
        sleep: Waits some seconds, and lets others work meanwhile.
        spawn: Runs a function beside this one.

    Attributes:
        under_way: Requests without an answer so far.
    """

    def __init__(
        self,
        in_flight: int,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        spawn: Callable[[Callable[[], None]], object],
    ) -> None:
        self._places = in_flight
        self._clock, self._sleep, self._spawn = clock, sleep, spawn
        self.under_way = 0

    def run(
        self,
        due: Iterator[float],
        send: Callable[[float], object],
        refuse: Callable[[float], object],
    ) -> None:
        """Works through the times; returns once the last one's request is under way.

        Args:
            due: Seconds since the run began, rising.
            send: Intended time -> sends a request and waits for its answer; must not raise.
            refuse: Intended time -> takes note that it could not be sent.
        """
        for intended in due:
            # Also if it is late: else no answer could be taken in while it catches up.
            self._sleep(max(0.0, intended - self._clock()))
            if self.under_way >= self._places:
                refuse(intended)
            else:
                self.under_way += 1
                self._spawn(partial(self._one, send, intended))

    def _one(self, send: Callable[[float], object], intended: float) -> None:
        try:
            send(intended)
        finally:
            self.under_way -= 1
