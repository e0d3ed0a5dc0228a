"""A model whose requests wait in lanes instead of in Triton's queue: the encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from lensemble.scheduling.lane_scheduler import LaneScheduler
from lensemble.scheduling.lanes import QueuedRequest
from lensemble.scheduling.wait_times import LaneWaitsWriter
from lensemble.settings import Settings
from lensemble.stages.python_backend import triton_api
from lensemble.stages.python_backend.metrics import lane_readings
from lensemble.stages.python_backend.model import TritonModel
from lensemble.stages.python_backend.requests import ModelRequest, read_request
from lensemble.stages.stage import Counter, Gauge, LaneStage


class LaneTritonModel(TritonModel):
    """Runs one stage whose requests wait in lanes.

    Args:
        stage: the model's stage.
        name: name of the model in the model repository.
        settings: the server's settings.
    """

    _stage: LaneStage[Any, Any]

    def __init__(self, stage: LaneStage[Any, Any], name: str, settings: Settings) -> None:
        self._scheduler: LaneScheduler[Any, Any] = LaneScheduler(
            stage.start,
            passes_in_flight=stage.passes_in_flight,
            around_pass=lambda: self._heartbeat.during_call(),
            after_pass=self._after_pass,
            lane_waits=LaneWaitsWriter(settings.heartbeats, name),
            clean_up=stage.clean_up,
        )
        self._published_errors = 0
        super().__init__(stage, name, settings)
        # The first pass of a thread is slower, because CUDA's libraries prepare each thread anew.
        self._scheduler.run_between_passes(stage.check)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers the requests of one call, or moves them into lanes.

        Requests that fit into one pass while nothing waits are answered now: sending an answer
        separately costs 0.7 ms, and returning it with the whole batch costs a tenth of that
        (docs/decisions.md). All others wait in lanes and are answered when their rows are computed.
        """
        start = time.perf_counter()
        read = [read_request(self._stage, request) for request in requests]
        costs = [
            [self._stage.costs(row) for row in request.rows] if request.is_computed else []
            for request in read
        ]
        all_costs = [cost for request_costs in costs for cost in request_costs]
        with self._scheduler.try_immediately(all_costs) as allowed:
            if allowed:
                with self._heartbeat.during_call():
                    return self._answer(read, start)
        return [self._queue(*each) for each in zip(requests, read, costs, strict=True)]

    def close(self) -> None:
        """Answers what still waits in lanes, then closes the stage."""
        self._scheduler.close()
        super().close()

    def _queue(
        self, triton_request: Any, request: ModelRequest, costs: list[tuple[float, ...]]
    ) -> Any:
        """Puts a request into its lane and returns None, or answers one that is refused."""
        if request.is_ping:
            sender = triton_request.get_response_sender()
            self._scheduler.run_between_passes(partial(self._answer_ping, sender))
            return None
        if not request.is_computed:
            # `_after_pass` then publishes the error.
            self._scheduler.run_between_passes(lambda: None)
            return self._responses.response(request, request.rows, 0.0)
        rows = [self._stage.copied(row) for row in request.rows]
        request.rows = []  # `on_done` keeps the request, and must not keep the originals with it
        on_done = partial(self._send_response, triton_request.get_response_sender(), request)
        self._scheduler.submit(QueuedRequest(rows, costs, self._stage.lane(rows), on_done))
        return None

    def _send_response(
        self, sender: Any, request: ModelRequest, results: list[Any], pass_ms: float
    ) -> None:
        triton_api.send(sender, self._responses.response(request, results, pass_ms))

    def _answer_ping(self, sender: Any) -> None:
        response = self._responses.ping_response()
        self._update_metrics(now=True)
        triton_api.send(sender, response)

    def _after_pass(self) -> None:
        errors = self._responses.errors.total()
        self._update_metrics(now=errors > self._published_errors)
        self._published_errors = errors

    def _readings(self) -> list[Counter | Gauge]:
        return [*super()._readings(), *lane_readings(self._scheduler.lanes)]
