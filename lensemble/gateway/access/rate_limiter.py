"""Limits how many requests each caller makes in a minute."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from cachetools import TTLCache

WINDOW_S = 60.0


class RateLimiter:
    """A sliding window of one minute for each caller.

    Args:
        per_minute: requests that one caller may make in a minute; 0 sets no limit.
        clock: monotonic time in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        # Caller -> times of the last accepted requests. A caller without a request for a whole
        # window is forgotten, because that caller's window is then empty.
        self._accepted: TTLCache[str, deque[float]] = TTLCache(math.inf, WINDOW_S, timer=clock)

    def wait_s(self, caller: str) -> float:
        """Counts a request if it is within the limit.

        Args:
            caller: name of the caller's key, or the caller's address.

        Returns:
            0 if the request is accepted, else the seconds until the next one would be.
        """
        if not self._per_minute:
            return 0.0
        now = self._clock()
        accepted = self._accepted.get(caller) or deque(maxlen=self._per_minute)
        if len(accepted) == self._per_minute and (wait_s := accepted[0] + WINDOW_S - now) > 0:
            return wait_s
        accepted.append(now)
        self._accepted[caller] = accepted  # restarts the time to live of the caller's entry
        return 0.0
