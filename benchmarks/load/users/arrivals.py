"""The open loop: requests start when they are due, whether or not earlier ones were answered.

Callers of a real service do not wait for each other. A closed loop sends less to a slow server, and
so leaves out exactly those requests that would have waited ("coordinated omission"). Here every
request has a time at which it is due, and its latency is counted from that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.scenario import Action

_SEED = 2_026


def arrival_times(
    schedule: LoadSchedule, arrivals: str, worker: int = 0, workers: int = 1
) -> Iterator[float]:
    """Yields the times at which requests are due, in seconds since the run began, rising.

    All workers draw the same times and take them in turn, so that together they are evenly spaced,
    or Poisson, like those of a single process.

    Args:
        schedule: Schedule whose levels are requests per second.
        arrivals: `constant` or `poisson`.
        worker: Number of this worker, from 0 on.
        workers: Number of workers.
    """
    rng = np.random.default_rng(_SEED)
    number = 0
    for step in schedule.steps:
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


class WeightedRoundRobin:
    """Chooses actions in turn, each as often as its weight says and as evenly as possible.

    Args:
        actions: Actions with their weights.
    """

    def __init__(self, actions: tuple[Action, ...]) -> None:
        self._actions = actions
        self._credit = [0] * len(actions)

    def next(self) -> Action:
        """Returns the next action."""
        self._credit = [
            credit + action.weight
            for credit, action in zip(self._credit, self._actions, strict=True)
        ]
        chosen = self._credit.index(max(self._credit))
        self._credit[chosen] -= sum(action.weight for action in self._actions)
        return self._actions[chosen]


class OpenLoop:
    """Starts requests at their times and never waits for one.

    Args:
        max_in_flight: Largest number of requests in flight. A request that is due while that many
            are in flight is never sent: if it waited, the generator would become the queue.
        clock: Function that returns the seconds since the run began.
        sleep: Function that waits some seconds while others work.
        spawn: Function that runs another function concurrently.

    Attributes:
        in_flight: Number of requests that were sent and not yet answered.
    """

    def __init__(
        self,
        max_in_flight: int,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        spawn: Callable[[Callable[[], None]], object],
    ) -> None:
        self._max_in_flight = max_in_flight
        self._clock, self._sleep, self._spawn = clock, sleep, spawn
        self.in_flight = 0

    def run(
        self,
        due: Iterator[float],
        send: Callable[[float], object],
        refuse: Callable[[float], object],
    ) -> None:
        """Works through the times; returns once the last request was started.

        Args:
            due: Times in seconds since the run began, rising.
            send: Function that gets the intended time, sends a request and waits for its answer; it
                must not raise.
            refuse: Function that gets the intended time and records that the request was not sent.
        """
        for intended in due:
            # Sleep even if the loop is late: otherwise no answer is received while it catches up.
            self._sleep(max(0.0, intended - self._clock()))
            if self.in_flight >= self._max_in_flight:
                refuse(intended)
            else:
                self.in_flight += 1
                self._spawn(partial(self._send, send, intended))

    def _send(self, send: Callable[[float], object], intended: float) -> None:
        try:
            send(intended)
        finally:
            self.in_flight -= 1
