"""What is known of a request: for the access log, the metrics, and the `Server-Timing` header."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lensemble_client.calls import Measured
from lensemble_contract.errors import LensembleError

log = logging.getLogger("lensemble.gateway.access")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HEADER_STAGES = ("read", "preprocess", "encode", "search", "store", "chat")


@dataclass(slots=True)
class Trace:
    """One request, from its first byte to its last.

    Attributes:
        id: Of the request.
        key: Name of its key; empty without one.
        items: That it brought.
        pictures: In them.
        tokens: Of their prompts, pictures included.
        errors: Items that failed.
        body_bytes: That were read.
        times_ms: Stage -> milliseconds; of stages that ran several times, the sum.
    """

    id: str
    key: str = ""
    items: int = 0
    pictures: int = 0
    tokens: int = 0
    errors: int = 0
    body_bytes: int = 0
    times_ms: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    def took(self, stage: str, ms: float) -> None:
        """Adds to the time of a stage."""
        self.times_ms[stage] = self.times_ms.get(stage, 0.0) + ms

    def note(self, results: Iterable[Measured[Any] | LensembleError]) -> None:
        """Adds what the results of items took. Items that shared a request share its times."""
        seen: set[int] = set()
        for result in results:
            if isinstance(result, LensembleError):
                self.errors += 1
                continue
            self.tokens += result.tokens
            if id(result.times_ms) not in seen:
                seen.add(id(result.times_ms))
                for stage, ms in result.times_ms.items():
                    self.took(stage, ms)

    @property
    def ms(self) -> float:
        """Milliseconds since its first byte."""
        return (time.perf_counter() - self._start) * 1000

    def server_timing(self) -> str:
        """Value of the header of that name (W3C, Server Timing), in milliseconds.

        Stages' times are of Triton's own clock and without waiting; requests of one call run side
        by side, so their sum may pass the total.
        """
        said = [
            f"{stage};dur={self.times_ms[stage]:.1f}"
            for stage in _HEADER_STAGES
            if stage in self.times_ms
        ]
        return ", ".join([*said, f"total;dur={self.ms:.1f}"])

    def log(self, method: str, route: str, status: int) -> None:
        """Writes one line of JSON: never what was sent, and no path as it was typed."""
        said: Mapping[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": self.id,
            "key": self.key,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(self.ms, 1),
            "items": self.items,
            "pictures": self.pictures,
            "tokens": self.tokens,
            "errors": self.errors,
            "body_bytes": self.body_bytes,
            "times_ms": {stage: round(ms, 1) for stage, ms in self.times_ms.items()},
        }
        log.info(json.dumps(said))


class Metrics:
    """The gateway's own metrics, in Prometheus's terms."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        made: dict[str, Any] = {"namespace": "lensemble_gateway", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered.", ["route", "status"], **made)
        self._seconds = Histogram(
            "request_seconds", "Until the last byte.", ["route"], buckets=_SECONDS, **made
        )
        self._refused = Counter("refused", "Refused before any work.", ["reason"], **made)
        self._items = Counter("items", "Items in requests.", ["route"], **made)
        self._failed = Counter("items_failed", "Items that got an error.", ["route"], **made)
        self._tokens = Counter("tokens", "Tokens of prompts, pictures included.", **made)
        self.in_flight = Gauge("in_flight", "Requests under way.", **made)

    def count(self, trace: Trace, route: str, status: int) -> None:
        """Counts an answered request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(trace.ms / 1000)
        if trace.items:
            self._items.labels(route).inc(trace.items)
            self._failed.labels(route).inc(trace.errors)
            self._tokens.inc(trace.tokens)

    def refuse(self, reason: str) -> None:
        """Counts a refused request."""
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
