"""What is kept of requests: per step and kind, in a form that workers' parts are merged from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.plan import Plan
from benchmarks.load.report.latencies import Latencies

NOT_SENT = "not sent in time"
"""Error class of an arrival that found all places for requests under way taken."""
WARM_UP = -1
"""Step of requests that began outside every measured time."""
ALL = "all"
"""Kind that all kinds are merged into."""


@dataclass(frozen=True, slots=True)
class Done:
    """One request, ended one way or the other. Times are seconds since the run began.

    Attributes:
        kind: Such as `embed text`.
        intended_s: When it was to start.
        sent_s: When it did.
        ended_s: When its answer or error was there.
        items: In it.
        sent_bytes: Of texts and pictures.
        received_bytes: Of the answer.
        error: Class of its error; empty if it was answered.
    """

    kind: str
    intended_s: float
    sent_s: float
    ended_s: float
    items: int = 1
    sent_bytes: int = 0
    received_bytes: int = 0
    error: str = ""


@dataclass(slots=True)
class Tally:
    """Requests of one kind in one step.

    Attributes:
        latencies: Of answered requests that were to start in the step, from that intended time.
        late: How long after the intended time they were sent.
        errors: Class -> how many that were to start in the step.
        requests: Answers that came during the step, whenever they were asked for.
        items: In those.
        sent_bytes: Of those.
        received_bytes: Of those.
    """

    latencies: Latencies = field(default_factory=Latencies)
    late: Latencies = field(default_factory=Latencies)
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    items: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def merge(self, other: Tally) -> None:
        """Takes another's in."""
        self.latencies.merge(other.latencies)
        self.late.merge(other.late)
        self.errors.update(other.errors)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {
            "latencies": self.latencies.to_json(),
            "late": self.late.to_json(),
            "errors": dict(self.errors),
            **{name: getattr(self, name) for name in _COUNTS},
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Tally:
        """Reads what `to_json` wrote."""
        return cls(
            Latencies.from_json(said["latencies"]),
            Latencies.from_json(said["late"]),
            Counter(said["errors"]),
            *(said[name] for name in _COUNTS),
        )


_COUNTS = ("requests", "items", "sent_bytes", "received_bytes")


class Tallies:
    """Tallies of all steps and kinds.

    A request's latency belongs to the step in which it was to start, its throughput to the step in
    which it was answered: otherwise a server that falls behind would seem to keep up with whatever
    rate it is asked for.

    Args:
        plan: Says which times count.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._by: dict[tuple[int, str], Tally] = {}

    def add(self, done: Done) -> bool:
        """Takes one request in.

        Returns:
            Whether its latency or error counts: not if it was to start in a warm-up.
        """
        began = self._plan.measured(done.intended_s)
        tally = self._tally(WARM_UP if began is None else began, done.kind)
        if done.error:
            tally.errors[done.error] += 1
            return began is not None
        tally.latencies.add((done.ended_s - done.intended_s) * 1000)
        tally.late.add((done.sent_s - done.intended_s) * 1000)
        ended = self._plan.measured(done.ended_s)
        if ended is not None:
            tally = self._tally(ended, done.kind)
            tally.requests += 1
            tally.items += done.items
            tally.sent_bytes += done.sent_bytes
            tally.received_bytes += done.received_bytes
        return began is not None

    def kinds(self, step: int) -> dict[str, Tally]:
        """Kind -> its tally in a step, with `ALL` in the end."""
        found = {kind: tally for (at, kind), tally in sorted(self._by.items()) if at == step}
        together = Tally()
        for tally in found.values():
            together.merge(tally)
        return {**found, ALL: together}

    def take(self) -> list[Any]:
        """What came since the last time, for `merge` of another process."""
        taken = [[*key, tally.to_json()] for key, tally in self._by.items()]
        self._by.clear()
        return taken

    def merge(self, taken: list[Any]) -> None:
        """Takes in what `take` gave."""
        for step, kind, said in taken:
            self._tally(step, kind).merge(Tally.from_json(said))

    def _tally(self, step: int, kind: str) -> Tally:
        return self._by.setdefault((step, kind), Tally())
