"""The steps, in order, with the seconds that each one gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Seconds of the whole command on a GPU machine.
TOTAL_S = 520.0


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of the command.

    Attributes:
        name: Name of its module in `benchmarks.gpu.steps`.
        share_s: Seconds that earlier steps leave for it.
        limit_s: Seconds after which it is ended, if earlier steps left more than its share.
        environment: Name of the environment in which it runs: `base`, `front` or `server`.
        needs: Background steps that must have ended before.
        background: Whether the next step starts while this one runs.
    """

    name: str
    share_s: float
    limit_s: float
    environment: str = "front"
    needs: tuple[str, ...] = ()
    background: bool = False


PLAN = (
    PlannedStep("preflight", 15, 40, "base"),
    PlannedStep("pictures", 0, 60, background=True),
    PlannedStep("smoke", 45, 70),
    PlannedStep("weights", 45, 70),
    PlannedStep("profile", 0, 60, background=True),
    PlannedStep("ceiling", 20, 40),
    PlannedStep("search", 15, 40),
    PlannedStep("right", 50, 80, needs=("profile",)),
    PlannedStep("encoder", 80, 110, needs=("profile",)),
    PlannedStep("variants", 80, 110, needs=("profile",)),
    PlannedStep("peers", 50, 90, needs=("profile", "pictures")),
    PlannedStep("served", 110, 180, "server", needs=("profile", "pictures")),
)


def chosen_steps(names: list[str], scale: float = 1.0) -> list[PlannedStep]:
    """Returns the steps that were asked for, in the order of the plan, with what they need.

    Args:
        names: Names of steps; none asks for all.
        scale: Factor on all seconds, for a slow machine.

    Raises:
        ValueError: A name is unknown.
    """
    known = [step.name for step in PLAN]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not a step; the steps are {', '.join(known)}")
    wanted = set(names or known)
    for step in PLAN:
        if step.name in wanted and "profile" in step.needs:
            wanted |= {"weights", "profile"}
        if step.name in wanted:
            wanted |= set(step.needs)
    return [
        replace(step, share_s=step.share_s * scale, limit_s=step.limit_s * scale)
        for step in PLAN
        if step.name in wanted
    ]
