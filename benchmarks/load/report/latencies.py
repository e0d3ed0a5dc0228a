"""Latencies that can be merged: counts per bucket, as a percentile of percentiles means nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

BASE = 1.005
"""Each bucket is this much wider than the one below: a percentile is off by 0.25 % at most."""
_LEAST_MS = 1e-3
_LOG = math.log(BASE)


class Latencies:
    """Milliseconds of any number of requests in a few hundred integers.

    Attributes:
        count: Of requests.
        max_ms: The longest, exactly.
        sum_ms: Of all, exactly.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count, self.max_ms, self.sum_ms = 0, 0.0, 0.0

    def add(self, value_ms: float) -> None:
        """Takes one in."""
        self._buckets[round(math.log(max(value_ms, _LEAST_MS)) / _LOG)] += 1
        self.count += 1
        self.sum_ms += value_ms
        self.max_ms = max(self.max_ms, value_ms)

    def merge(self, other: Latencies) -> None:
        """Takes all of another process or kind in."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.sum_ms += other.sum_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile(self, percent: float) -> float | None:
        """The smallest value that so many percent do not pass, in ms; None if there are none.

        Args:
            percent: 0 to 100.
        """
        wanted = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return float(min(BASE**bucket, self.max_ms))
        return None

    @property
    def mean_ms(self) -> float | None:
        """The mean; None if there are none."""
        return self.sum_ms / self.count if self.count else None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        buckets = {str(bucket): count for bucket, count in self._buckets.items()}
        return {"max_ms": self.max_ms, "sum_ms": self.sum_ms, "buckets": buckets}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Latencies:
        """Reads what `to_json` wrote."""
        made = cls()
        made._buckets.update({int(bucket): n for bucket, n in said["buckets"].items()})
        made.count = made._buckets.total()
        made.max_ms, made.sum_ms = said["max_ms"], said["sum_ms"]
        return made
