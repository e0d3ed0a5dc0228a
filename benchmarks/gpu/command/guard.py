"""How many seconds a step may run, so that the whole command ends in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.gpu.command.plan import PlannedStep

# Seconds that a step has to clean up after it was told to end.
GRACE_S = 5.0

# A step is skipped if less than this part of its share is left: it would end without a result.
LEAST_PART = 0.4


class TimeGuard:
    """Divides the time of the command among its steps.

    A step may use what earlier steps left over, but nothing of the shares of later ones: a step
    that hangs costs no other step its result.

    Args:
        total_s: Seconds of the whole command.
        clock: Function that returns the present time in seconds.
    """

    def __init__(self, total_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + total_s

    def remaining_s(self) -> float:
        """Returns the seconds that are left."""
        return max(0.0, self._end - self._clock())

    def granted_s(self, step: PlannedStep, later: Sequence[PlannedStep]) -> float:
        """Returns the seconds that a step may run; 0 if it no longer fits.

        Args:
            step: The step that is next.
            later: The steps after it.
        """
        reserved = 0.0 if step.background else sum(other.share_s for other in later)
        free = self.remaining_s() - GRACE_S - reserved
        granted = min(step.limit_s, free)
        return granted if granted > 0 and granted >= LEAST_PART * step.share_s else 0.0
