"""The result of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.load.report import soak
from benchmarks.load.report.limits import Failure
from benchmarks.load.report.step_summary import Summary
from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything that one run measured.

    Attributes:
        scenario: The scenario as it was run: with rates where it had shares.
        steps: Steps as `step_summary.summarize_steps` returns them, each with `server` (see
            `sampler.usage_between`), and with `share` where rates came from shares.
        about: Server, machine, number of workers, peak.
        failed: Limits that were not met.
        soak: Growth of each figure; None if the scenario has no soak.
    """

    scenario: Scenario
    steps: list[Summary]
    about: dict[str, Any]
    failed: list[Failure]
    soak: list[soak.Growth] | None
