"""Latencies as counts per bucket, so that those of several processes can be added up.

Percentiles themselves cannot be merged: the mean of two 99th percentiles is not one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

# Each bucket is this many times as wide as the one below, so a percentile is off by at most 0.25 %.
BASE = 1.005
_LEAST_MS = 1e-3
_LOG = math.log(BASE)


class LatencyHistogram:
    """Milliseconds of any number of requests in a few hundred integers.

    Attributes:
        count: Number of requests.
        max_ms: The longest latency, exactly.
        sum_ms: The sum of all latencies, exactly.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count, self.max_ms, self.sum_ms = 0, 0.0, 0.0

    def add(self, value_ms: float) -> None:
        """Adds one latency."""
        self._buckets[round(math.log(max(value_ms, _LEAST_MS)) / _LOG)] += 1
        self.count += 1
        self.sum_ms += value_ms
        self.max_ms = max(self.max_ms, value_ms)

    def merge(self, other: LatencyHistogram) -> None:
        """Adds all latencies of another histogram."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.sum_ms += other.sum_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile(self, percent: float) -> float | None:
        """Returns a percentile in milliseconds; None if the histogram is empty.

        Args:
            percent: Percentage of requests that took at most that long, 0 to 100.
        """
        remaining = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self._buckets):
            remaining -= self._buckets[bucket]
            if remaining <= 0:
                return float(min(BASE**bucket, self.max_ms))
        return None

    @property
    def mean_ms(self) -> float | None:
        """The mean; None if the histogram is empty."""
        return self.sum_ms / self.count if self.count else None

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        buckets = {str(bucket): count for bucket, count in self._buckets.items()}
        return {"max_ms": self.max_ms, "sum_ms": self.sum_ms, "buckets": buckets}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LatencyHistogram:
        """Reads what `to_json` returned."""
        histogram = cls()
        histogram._buckets.update({int(bucket): n for bucket, n in content["buckets"].items()})
        histogram.count = histogram._buckets.total()
        histogram.max_ms, histogram.sum_ms = content["max_ms"], content["sum_ms"]
        return histogram
