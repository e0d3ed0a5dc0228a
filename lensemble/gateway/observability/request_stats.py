"""Counts and times of one request, for access log, metrics, spans and `Server-Timing`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from lensemble_client.results import Measured
from lensemble_contract.errors import LensembleError

access_log = logging.getLogger("lensemble.gateway.access")

_STAGES_IN_HEADER = ("read", "preprocess", "encode", "search", "store", "chat")


@dataclass(slots=True)
class RequestStats:
    """Counts and times of one request; the clock starts when the object is made.

    Attributes:
        id: id of the request.
        key: name of the API key; empty without one.
        items: number of items in the request.
        pictures: number of pictures in these items.
        tokens: number of tokens of their prompts, pictures included.
        errors: number of items that failed.
        body_bytes: number of bytes of the body that were read.
        times_ms: stage -> milliseconds, summed if a stage ran several times.
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

    @classmethod
    def of(cls, request: Request) -> RequestStats:
        """The statistics that the guard has attached to a request."""
        stats: RequestStats = request.state.stats
        return stats

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request began."""
        return (time.perf_counter() - self._start) * 1000

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the duration of its block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_time(stage, (time.perf_counter() - start) * 1000)

    def add_time(self, stage: str, ms: float) -> None:
        """Adds to the time of a stage."""
        self.times_ms[stage] = self.times_ms.get(stage, 0.0) + ms

    def add_results(self, results: Iterable[Measured[Any] | LensembleError]) -> None:
        """Adds tokens, errors and times of the results of items.

        Items that were sent to Triton in one request share one dict of times, which counts once.
        """
        counted: set[int] = set()
        for result in results:
            if isinstance(result, LensembleError):
                self.errors += 1
                continue
            self.tokens += result.tokens
            if id(result.times_ms) not in counted:
                counted.add(id(result.times_ms))
                for stage, ms in result.times_ms.items():
                    self.add_time(stage, ms)

    def server_timing(self) -> str:
        """Value of the `Server-Timing` header (W3C, Server Timing), in milliseconds.

        Triton reports the times of the stages, without the time that a request waited. Requests to
        Triton run concurrently, so the sum of the stages may exceed the total.
        """
        stages = [
            f"{stage};dur={self.times_ms[stage]:.1f}"
            for stage in _STAGES_IN_HEADER
            if stage in self.times_ms
        ]
        return ", ".join([*stages, f"total;dur={self.elapsed_ms:.1f}"])

    def write_access_log(self, method: str, route: str, status: int) -> None:
        """Writes one line of JSON, without any content of the request and without its own path.

        Args:
            method: HTTP method.
            route: path of the route with its placeholders, such as `/v1/items/{id:text}`.
            status: HTTP status.
        """
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": self.id,
            "key": self.key,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(self.elapsed_ms, 1),
            "items": self.items,
            "pictures": self.pictures,
            "tokens": self.tokens,
            "errors": self.errors,
            "body_bytes": self.body_bytes,
            "times_ms": {stage: round(ms, 1) for stage, ms in self.times_ms.items()},
        }
        access_log.info(json.dumps(entry))
