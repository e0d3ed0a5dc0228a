"""Everything that one run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.load.report import soak
from benchmarks.load.report.limits import Failure
from benchmarks.load.report.step_figures import Figures
from benchmarks.load.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    Attributes:
        scenario: As it was run: with rates where it had shares.
        steps: As `outcome.figures` gives them, with `server` (see `watch.between`), and `share`
            where rates came from shares.
        about: Server, machine, workers, peak.
        failed: Limits that were not kept.
        soak: Growth of each figure; None if the scenario has no soak.
    """

    scenario: Scenario
    steps: list[Figures]
    about: dict[str, Any]
    failed: list[Failure]
    soak: list[soak.Growth] | None
