"""One model of Triton's Python backend: a stage with its heartbeat and its metrics.

Triton calls `execute` with many requests at once; their rows are computed together. `execute` never
raises: an exception would fail all requests of the call, and its text would show each caller a file
and a line of the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from lensemble.scheduling.heartbeat import HeartbeatWriter
from lensemble.settings import Settings
from lensemble.stages.python_backend.metrics import MetricsPublisher
from lensemble.stages.python_backend.requests import ModelRequest, Responses, read_request
from lensemble.stages.stage import Counter, Gauge, Stage
from lensemble_contract.errors import InternalError

logger = logging.getLogger(__name__)


class TritonModel:
    """Runs one stage as a Triton model; `load_model` makes one.

    Args:
        stage: the model's stage.
        name: name of the model in the model repository.
        settings: the server's settings.
    """

    def __init__(self, stage: Stage[Any, Any], name: str, settings: Settings) -> None:
        self._stage = stage
        self._responses = Responses(stage)
        self._heartbeat = HeartbeatWriter(settings.heartbeats, name, stage.patience_s)
        self._metrics = MetricsPublisher(name)
        self._metrics.publish_info(stage.info)
        self._update_metrics(now=True)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers the requests of one call; see Triton's `execute`.

        Args:
            requests: Triton's requests.

        Returns:
            For each request, in order, its response, or None if it is answered later.
        """
        with self._heartbeat.during_call():
            start = time.perf_counter()
            return self._answer([read_request(self._stage, each) for each in requests], start)

    def close(self) -> None:
        """Closes the stage."""
        self._stage.close()

    def _answer(self, requests: Sequence[ModelRequest], start: float) -> list[Any]:
        """Computes all rows together and makes the responses."""
        rows = [row for request in requests if request.is_computed for row in request.rows]
        try:
            results = iter(self._stage.run(rows))
        except Exception:
            logger.exception("%s failed", self._stage.model.name)
            error = InternalError("the model failed; its log has the reason")
            results = iter([error] * len(rows))
        compute_ms = (time.perf_counter() - start) * 1000
        errors_before = self._responses.errors.total()
        responses = []
        for request in requests:
            if request.is_ping:
                responses.append(self._responses.ping_response())
                continue
            row_results = request.rows
            if request.is_computed:
                row_results = [next(results) for _ in request.rows]
            responses.append(self._responses.response(request, row_results, compute_ms))
        self._update_metrics(
            now=self._responses.errors.total() > errors_before
            or any(request.is_ping for request in requests)
        )
        return responses

    def _update_metrics(self, *, now: bool = False) -> None:
        """Updates Triton's metrics: after errors and pings now, otherwise a few times a second."""
        if now or self._metrics.is_due():
            self._metrics.update(self._readings())

    def _readings(self) -> list[Counter | Gauge]:
        return [
            *self._stage.counters(), *self._responses.errors.counters(), *self._stage.gauges()
        ]  # fmt: skip
