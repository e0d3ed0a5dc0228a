"""Turns the statistics of requests into the figures of each step."""

from __future__ import annotations

from typing import Any

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.report.request_statistics import (
    ALL,
    WARM_UP,
    RequestStatistics,
    StatisticsByStep,
)
from benchmarks.load.scenario import Scenario

Summary = dict[str, Any]
PERCENTILES = (50, 95, 99)


def summarize_steps(
    scenario: Scenario, schedule: LoadSchedule, statistics: StatisticsByStep
) -> list[Summary]:
    """Returns the figures of each step.

    Args:
        scenario: Scenario that was run.
        schedule: Its clock.
        statistics: Statistics of all processes together.

    Returns:
        For each step: `level` (users, or requests per second), `from_s` and `to_s` (seconds since
        the run began), `kinds` (kind -> its figures, `all` last), and what the warm-ups left out.
    """
    warm_up = statistics.kinds(WARM_UP)[ALL]
    return [
        {
            "level": step.level,
            "from_s": step.from_s,
            "to_s": step.to_s,
            "kinds": {
                kind: summarize(requests, scenario.seconds)
                for kind, requests in statistics.kinds(step.number).items()
            },
            "cut_off_in_all_steps": {
                "answered": warm_up.latencies.count,
                "errors": dict(warm_up.errors),
            },
        }
        for step in schedule.steps
    ]


def summarize(statistics: RequestStatistics, seconds: float) -> Summary:
    """Returns figures; times are in milliseconds, and None where nothing was answered.

    Args:
        statistics: Statistics of the requests of one kind, or of all.
        seconds: Measured seconds.
    """
    latencies = statistics.latencies
    failed = statistics.errors.total()
    started = latencies.count + failed
    percentiles: Summary = {
        f"p{percent}_ms": _rounded(latencies.percentile(percent)) for percent in PERCENTILES
    }
    p50, p99 = percentiles["p50_ms"], percentiles["p99_ms"]
    return {
        **percentiles,
        "max_ms": _rounded(latencies.max_ms if latencies.count else None),
        "mean_ms": _rounded(latencies.mean_ms),
        "p99_over_p50": _rounded(p99 / p50) if p50 else None,
        "requests_per_s": round(statistics.requests / seconds, 2),
        "items_per_s": round(statistics.items / seconds, 2),
        "requests": statistics.requests,
        "started": started,
        "errors": dict(statistics.errors),
        "error_rate": round(failed / started, 6) if started else 0.0,
        "sent_mib_per_s": round(statistics.sent_bytes / seconds / 2**20, 3),
        "received_mib_per_s": round(statistics.received_bytes / seconds / 2**20, 3),
        "late_p99_ms": _rounded(statistics.late.percentile(99)),
        "latencies": latencies.to_json(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
