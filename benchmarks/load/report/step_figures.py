"""From tallies to the figures of each step."""

from __future__ import annotations

from typing import Any

from benchmarks.load.plan import Plan
from benchmarks.load.report.tally import ALL, WARM_UP, Tallies, Tally
from benchmarks.load.scenario import Scenario

Figures = dict[str, Any]
PERCENTILES = (50, 95, 99)


def figures(scenario: Scenario, plan: Plan, tallies: Tallies) -> list[Figures]:
    """One entry per step.

    Args:
        scenario: That was run.
        plan: Its clock.
        tallies: Of all processes together.

    Returns:
        Per step: `level` (users, or requests per second), `from_s` and `to_s` (seconds since the
        run began), `kinds` (kind -> its figures, `all` last), and what the warm-up cut off.
    """
    warm_up = tallies.kinds(WARM_UP)[ALL]
    return [
        {
            "level": step.level,
            "from_s": step.from_s,
            "to_s": step.to_s,
            "kinds": {
                kind: of(tally, scenario.seconds)
                for kind, tally in tallies.kinds(step.number).items()
            },
            "cut_off_in_all_steps": {
                "answered": warm_up.latencies.count,
                "errors": dict(warm_up.errors),
            },
        }
        for step in plan.steps
    ]


def of(tally: Tally, seconds: float) -> Figures:
    """The figures of one tally; times in milliseconds, None where nothing was answered.

    Args:
        tally: Requests of one kind, or of all.
        seconds: Measured.
    """
    failed = tally.errors.total()
    wanted = tally.latencies.count + failed
    found: Figures = {
        f"p{percent}_ms": _rounded(tally.latencies.percentile(percent)) for percent in PERCENTILES
    }
    p50, p99 = found["p50_ms"], found["p99_ms"]
    return {
        **found,
        "max_ms": _rounded(tally.latencies.max_ms if tally.latencies.count else None),
        "mean_ms": _rounded(tally.latencies.mean_ms),
        "p99_over_p50": _rounded(p99 / p50) if p50 else None,
        "requests_per_s": round(tally.requests / seconds, 2),
        "items_per_s": round(tally.items / seconds, 2),
        "requests": tally.requests,
        "started": wanted,
        "errors": dict(tally.errors),
        "error_rate": round(failed / wanted, 6) if wanted else 0.0,
        "sent_mib_per_s": round(tally.sent_bytes / seconds / 2**20, 3),
        "received_mib_per_s": round(tally.received_bytes / seconds / 2**20, 3),
        "late_p99_ms": _rounded(tally.late.percentile(99)),
        "latencies": tally.latencies.to_json(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
