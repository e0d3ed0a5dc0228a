"""How often each caller may ask: a moving window, on a clock that nobody can set."""

from __future__ import annotations

import time
from collections import deque

WINDOW_S = 60.0
_MANY = 10_000
"""Callers that are remembered before those are forgotten who have not asked for a window."""


class Rates:
    """Counts requests of the last minute, per caller.

    Args:
        per_minute: Of one caller; 0 sets no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._asked: dict[str, deque[float]] = {}

    def wait_s(self, who: str) -> float:
        """Counts a request, if it is within the limit.

        Args:
            who: Name of the caller.

        Returns:
            0 if it is, else seconds until the next one would be.
        """
        if not self._most:
            return 0.0
        now = time.monotonic()
        if who not in self._asked and len(self._asked) >= _MANY:
            self._forget(now)
        asked = self._asked.setdefault(who, deque(maxlen=self._most))
        if len(asked) == self._most and (wait_s := asked[0] + WINDOW_S - now) > 0:
            return wait_s
        asked.append(now)
        return 0.0

    def _forget(self, now: float) -> None:
        self._asked = {
            who: asked for who, asked in self._asked.items() if asked[-1] + WINDOW_S > now
        }
