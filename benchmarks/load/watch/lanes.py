"""The lanes of the encoder: how many rows came through each, and how long they waited there.

Triton's statistics do not say it: a request that was taken over into a lane has left its queue.
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


def read(url: str) -> Counts:
    """Counters of each lane since the server began.

    Args:
        url: Of Triton's metrics.

    Returns:
        Lane -> `rows`, `waited_s`, `passes_s`.

    Raises:
        OSError: It does not answer.
    """
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return counted(answer.read().decode())


def counted(text: str) -> Counts:
    """What a page of metrics says.

    Args:
        text: In Prometheus' format.

    Returns:
        As `read` does; over all instances of the encoder.
    """
    found: Counts = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = _KEYS.get(sample.name)
            if key is not None:
                lane = found.setdefault(sample.labels["lane"], dict.fromkeys(_KEYS.values(), 0.0))
                lane[key] += sample.value
    return found


def between(before: Mapping[str, Mapping[str, float]], after: Counts) -> Counts:
    """What went through each lane meanwhile; lanes through which nothing went are left out.

    Args:
        before: As `read` gives it.
        after: The same, later.

    Returns:
        Lane -> `rows`; `waited_ms`, the mean of a row, and `pass_ms`, that of the pass it was in.
    """
    found: Counts = {}
    for name, late in after.items():
        early = before.get(name, dict.fromkeys(_KEYS.values(), 0.0))
        more = {key: late[key] - early[key] for key in late}
        if rows := more["rows"]:
            found[name] = {
                "rows": int(rows),
                "waited_ms": round(more["waited_s"] / rows * 1000, 3),
                "pass_ms": round(more["passes_s"] / rows * 1000, 3),
            }
    return found
