"""The encoder's lanes: how many rows went through each, and how long they waited there.

Triton's statistics do not show this, because a request that waits in a lane has left Triton's
queue.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

_KEYS = {
    "lensemble_lane_rows_total": "rows",
    "lensemble_lane_waited_seconds_total": "waited_s",
    "lensemble_lane_pass_seconds_total": "passes_s",
}
_TIMEOUT_S = 10.0

Counts = dict[str, dict[str, float]]


def read_counters(url: str) -> Counts:
    """Reads the counters of each lane since the server started.

    Args:
        url: URL of Triton's metrics.

    Returns:
        Lane -> `rows`, `waited_s`, `passes_s`.

    Raises:
        OSError: The server does not answer.
    """
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return parse(answer.read().decode())


def parse(text: str) -> Counts:
    """Reads the counters from a page of metrics.

    Args:
        text: Metrics in Prometheus' text format.

    Returns:
        The same as `read_counters`, added up over all instances of the encoder.
    """
    counters: Counts = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = _KEYS.get(sample.name)
            if key is not None:
                lane = counters.setdefault(
                    sample.labels["lane"], dict.fromkeys(_KEYS.values(), 0.0)
                )
                lane[key] += sample.value
    return counters


def difference(before: Mapping[str, Mapping[str, float]], after: Counts) -> Counts:
    """Returns what went through each lane between two readings; idle lanes are left out.

    Args:
        before: Earlier counters, as `read_counters` returns them.
        after: Later counters.

    Returns:
        Lane -> `rows`, and means over them: `waited_ms` in the lane, `pass_ms` of their pass.
    """
    lanes: Counts = {}
    for name, late in after.items():
        early = before.get(name, dict.fromkeys(_KEYS.values(), 0.0))
        more = {key: late[key] - early[key] for key in late}
        if rows := more["rows"]:
            lanes[name] = {
                "rows": int(rows),
                "waited_ms": round(more["waited_s"] / rows * 1000, 3),
                "pass_ms": round(more["passes_s"] / rows * 1000, 3),
            }
    return lanes
