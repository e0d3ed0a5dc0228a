"""Statistics of requests per step and kind, in a form that can be merged over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.report.latency_histogram import LatencyHistogram

# Error class of a request that was due while `in_flight` requests were in flight.
NOT_SENT = "not sent in time"
# Step number of requests that were due outside all measured times.
WARM_UP = -1
# Name under which all kinds are added up.
ALL = "all"


@dataclass(frozen=True, slots=True)
class CompletedRequest:
    """A request that was answered or failed. Times are seconds since the run began.

    Attributes:
        kind: Kind of the request, such as `embed text`.
        intended_s: When it was to be sent.
        sent_s: When it was sent.
        ended_s: When its answer or error arrived.
        items: Number of items in it.
        sent_bytes: Bytes of texts and pictures.
        received_bytes: Bytes of the answer.
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
class RequestStatistics:
    """Statistics of the requests of one kind in one step.

    Attributes:
        latencies: Milliseconds from the intended time to the answer, of answered requests that were
            due in the step.
        late: Milliseconds from the intended time until the request was sent.
        errors: Error class -> number of failed requests that were due in the step.
        requests: Number of answers that arrived during the step, whenever they were asked for.
        items: Number of items in those answers.
        sent_bytes: Bytes that were sent for those answers.
        received_bytes: Bytes of those answers.
    """

    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    late: LatencyHistogram = field(default_factory=LatencyHistogram)
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    items: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def merge(self, other: RequestStatistics) -> None:
        """Adds another process's statistics."""
        self.latencies.merge(other.latencies)
        self.late.merge(other.late)
        self.errors.update(other.errors)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        return {
            "latencies": self.latencies.to_json(),
            "late": self.late.to_json(),
            "errors": dict(self.errors),
            **{name: getattr(self, name) for name in _COUNTS},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RequestStatistics:
        """Reads what `to_json` returned."""
        return cls(
            LatencyHistogram.from_json(content["latencies"]),
            LatencyHistogram.from_json(content["late"]),
            Counter(content["errors"]),
            *(content[name] for name in _COUNTS),
        )


_COUNTS = ("requests", "items", "sent_bytes", "received_bytes")


class StatisticsByStep:
    """Statistics of all steps and kinds.

    A request's latency belongs to the step in which it was due. Its throughput belongs to the step
    in which it was answered: otherwise a server that falls behind would seem to keep up with any
    rate.

    Args:
        schedule: Clock that says which times are measured.
    """

    def __init__(self, schedule: LoadSchedule) -> None:
        self._schedule = schedule
        self._by_step_and_kind: dict[tuple[int, str], RequestStatistics] = {}

    def add(self, request: CompletedRequest) -> bool:
        """Adds one request.

        Returns:
            Whether its latency or error is measured: it is not if it was due in a warm-up.
        """
        due_step = self._schedule.measured_step(request.intended_s)
        statistics = self._of(WARM_UP if due_step is None else due_step, request.kind)
        if request.error:
            statistics.errors[request.error] += 1
            return due_step is not None
        statistics.latencies.add((request.ended_s - request.intended_s) * 1000)
        statistics.late.add((request.sent_s - request.intended_s) * 1000)
        end_step = self._schedule.measured_step(request.ended_s)
        if end_step is not None:
            statistics = self._of(end_step, request.kind)
            statistics.requests += 1
            statistics.items += request.items
            statistics.sent_bytes += request.sent_bytes
            statistics.received_bytes += request.received_bytes
        return due_step is not None

    def kinds(self, step: int) -> dict[str, RequestStatistics]:
        """Returns kind -> its statistics in a step, with `ALL` as the last one."""
        kinds = {
            kind: statistics
            for (number, kind), statistics in sorted(self._by_step_and_kind.items())
            if number == step
        }
        total = RequestStatistics()
        for statistics in kinds.values():
            total.merge(statistics)
        return {**kinds, ALL: total}

    def take(self) -> list[Any]:
        """Returns and forgets what was added since the last call, for `merge` elsewhere."""
        taken = [[*key, statistics.to_json()] for key, statistics in self._by_step_and_kind.items()]
        self._by_step_and_kind.clear()
        return taken

    def merge(self, taken: list[Any]) -> None:
        """Adds what `take` returned in another process."""
        for step, kind, content in taken:
            self._of(step, kind).merge(RequestStatistics.from_json(content))

    def _of(self, step: int, kind: str) -> RequestStatistics:
        return self._by_step_and_kind.setdefault((step, kind), RequestStatistics())
