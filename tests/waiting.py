"""A wait for a state, and a clock that tests advance."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# Seconds after which a wait fails. Even on a busy machine everything is far faster, so only a state
# that never comes takes so long.
DEADLINE_S = 120


def until(state: Callable[[], Value], what: str = "the state") -> Value:
    """Waits until a function returns something true, and returns that.

    Args:
        state: called every few milliseconds.
        what: name of the state, for the message.
    """
    end = time.monotonic() + DEADLINE_S
    while not (value := state()):
        assert time.monotonic() < end, f"{what} did not come within {DEADLINE_S} s"
        time.sleep(0.01)
    return value


class FakeClock:
    """A clock that stands still until a test advances it.

    It starts at the whole seconds of `time.monotonic()`: with their fractions, 30 + 30 would be a
    little less than 60 whenever the sum passes a power of two.
    """

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()))

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the clock on."""
        self.now += seconds
