"""Triton's Python backend; the only module that imports `triton_python_backend_utils`.

One `execute` call brings many requests. Their rows run together, and each request gets exactly one
response: its results, or the error of its first bad row; of a request with a bad row, none is run,
so a refused write has written nothing. `execute` never raises: that would fail every request of the
call, and show each caller a file and line of the server.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from lensemble.scheduling.admission import Board
from lensemble.scheduling.deadline import is_over, too_late
from lensemble.scheduling.heartbeat import Heartbeat
from lensemble.scheduling.lanes import Job, Lanes
from lensemble.settings import Settings
from lensemble.stages.stage import Counter, Gauge, LaneStage, Stage, check_parameters, deadline_of
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    StorageError,
)
from lensemble_contract.items import blank_rows

logger = logging.getLogger(__name__)

# `kill -USR1` of a model's process writes its stacks to the server's log: where does it hang?
faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

INFO_METRIC = "lensemble_model_info"
_heartbeat = Heartbeat(None, "", 0)
_lanes: Lanes[Any, Any] | None = None
_LAST = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_WAITING = ("lensemble_lane_waiting", "Rows that wait for the encoder.")
_WAITED = ("lensemble_lane_waited_seconds_total", "Seconds that rows waited before their pass.")
_PASSES = ("lensemble_lane_pass_seconds_total", "Seconds of the passes that rows were in.")
_BEGUN = ("lensemble_lane_rows_total", "Rows that came into a pass.")
_ERRORS = ("lensemble_errors_total", "Requests that were answered with an error.")
_FIELDS = {
    *contract.PARAMETERS,
    *(tensor.name for model in contract.PROCESSES.values() for tensor in model.inputs),
}
# At 0 from the start, what alerts ask for: a counter that appears with 1 shows no increase.
_errors: collections.Counter[tuple[str, str, str]] = collections.Counter(
    dict.fromkeys(
        (
            (error.code, "", "")
            for error in (InternalError, NotReadyError, StorageError, DeadlineExceededError)
        ),
        0,
    )
)
_OURS = (InternalError, StorageError)
"""Errors that are no caller's fault: they are in the log, with the ids of their requests."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_errors_counted = 0
_counting = threading.Lock()
_COUNT_S = 0.1
_counted_at = 0.0
_published: list[Any] = []
_families: dict[str, Any] = {}
_counted: dict[tuple[Any, ...], tuple[Any, float]] = {}


@dataclass(slots=True)
class _Call:
    """One request, as it was read.

    Attributes:
        id: That its caller gave it; any text.
        rows: Each read or refused.
        deadline: See `contract.DEADLINE`.
        is_ping: It only asks whether the model works.
    """

    id: str = ""
    rows: list[Any] = field(default_factory=list)
    deadline: int = 0
    is_ping: bool = False

    @property
    def runs(self) -> bool:
        """Whether its rows go to the stage: all of them, or none."""
        return not self.is_ping and not any(isinstance(row, LensembleError) for row in self.rows)


def load(
    stage: Callable[[Settings, str], Stage[Any, Any]], args: dict[str, str]
) -> Stage[Any, Any]:
    """Makes a model's stage from the environment.

    Args:
        stage: Its class: settings and torch device in, stage out.
        args: What Triton hands to `initialize`.

    Raises:
        InvalidInputError: The model's config.pbtxt is of another version than this package, or a
            setting, the checkpoint or the index cannot be used.
    """
    logging.basicConfig(handlers=[_TritonLog()], level=logging.INFO, force=True)
    parameters = json.loads(args["model_config"])["parameters"]
    version = parameters["contract_version"]["string_value"]
    if version != str(contract.CONTRACT_VERSION):
        raise InvalidInputError(
            f"config.pbtxt of {args['model_name']!r} has contract version {version}, the installed "
            f"package {contract.CONTRACT_VERSION}; use the two of one release",
            field="model_repository",
        )
    settings = Settings.from_env()
    device: str = settings.device
    if device == "auto":
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
    if device == "cuda":
        device = f"cuda:{args['model_instance_device_id']}"
    made = stage(settings, device)
    global _heartbeat
    _heartbeat = Heartbeat(settings.heartbeats, args["model_name"], made.patience_s)
    _publish(made, args["model_name"])
    _count(made, at_once=True)
    if isinstance(made, LaneStage):
        global _lanes
        _lanes = Lanes(
            made.run,
            around=_heartbeat.during,
            after=partial(_after_pass, made),
            board=Board(settings.heartbeats, args["model_name"]),
            rest=made.rest,
        )
    return made


def take(stage: LaneStage[Any, Any], requests: Sequence[Any]) -> list[Any]:
    """Answers the requests of one `execute` call, or takes them over into lanes.

    What fits into one pass, with nothing waiting, is answered at once: an answer that is sent by
    itself costs 0.7 ms, one among many of a batch a tenth of that (docs/decisions.md). All else
    waits in lanes, and is answered when its rows are computed.

    Args:
        stage: The model's stage.
        requests: Triton's requests.

    Returns:
        One response per request, in order; None for those that were taken over.
    """
    assert _lanes is not None
    start = time.perf_counter()
    calls = [_read(stage, request) for request in requests]
    costs = [[stage.costs(row) for row in call.rows] if call.runs else [] for call in calls]
    with _lanes.at_once([cost for each in costs for cost in each]) as at_once:
        if at_once:
            with _heartbeat.during():
                return _answered(stage, calls, start)
    return [_taken_over(stage, *each) for each in zip(requests, calls, costs, strict=True)]


def _taken_over(
    stage: LaneStage[Any, Any], request: Any, call: _Call, costs: list[tuple[float, ...]]
) -> Any:
    assert _lanes is not None
    if call.is_ping:
        _lanes.aside(partial(_answer_ping, stage, request.get_response_sender()))
        return None
    if not call.runs:
        _lanes.aside(_nothing)  # after which the error is counted
        return _response(stage, call, call.rows, 0.0)
    rows, call.rows = [stage.detached(row) for row in call.rows], []
    done = partial(_answer, stage, request.get_response_sender(), call)
    _lanes.submit(Job(rows, costs, stage.lane(rows), done))
    return None


def close(stage: LaneStage[Any, Any]) -> None:
    """Finishes what was taken over, and lets go of the stage."""
    if _lanes is not None:
        _lanes.close()
    stage.close()


def _answer(
    stage: Stage[Any, Any], sender: Any, call: _Call, results: list[Any], worked_ms: float
) -> None:
    sender.send(_response(stage, call, results, worked_ms), _LAST)


def _answer_ping(stage: Stage[Any, Any], sender: Any) -> None:
    answer = _pinged(stage)
    _count(stage, at_once=True)
    sender.send(answer, _LAST)


def _nothing() -> None:
    """Does nothing."""


def _after_pass(stage: Stage[Any, Any]) -> None:
    global _errors_counted
    more = _errors.total() > _errors_counted
    _errors_counted = _errors.total()
    _count(stage, at_once=more)


def respond(stage: Stage[Any, Any], requests: Sequence[Any]) -> list[Any]:
    """Answers the requests of one `execute` call.

    Args:
        stage: The model's stage.
        requests: Triton's requests.

    Returns:
        One response per request, in order.
    """
    with _heartbeat.during():
        return _respond(stage, requests)


def _respond(stage: Stage[Any, Any], requests: Sequence[Any]) -> list[Any]:
    start = time.perf_counter()
    return _answered(stage, [_read(stage, request) for request in requests], start)


def _answered(stage: Stage[Any, Any], calls: Sequence[_Call], start: float) -> list[Any]:
    sound = [row for call in calls if call.runs for row in call.rows]
    try:
        ran = iter(stage.run(sound))
    except Exception:
        logger.exception("%s failed", stage.model.name)
        ran = iter([InternalError("the model failed; its log says why")] * len(sound))
    worked_ms = (time.perf_counter() - start) * 1000
    before = _errors.total()
    responses = []
    for call in calls:
        if call.is_ping:
            responses.append(_pinged(stage))
        else:
            results = [next(ran) for _ in call.rows] if call.runs else call.rows
            responses.append(_response(stage, call, results, worked_ms))
    _count(stage, at_once=_errors.total() > before or any(call.is_ping for call in calls))
    return responses


def _read(stage: Stage[Any, Any], request: Any) -> _Call:
    call = _Call(request.request_id())
    try:
        rows = {}
        for tensor in stage.model.inputs:
            found = pb_utils.get_input_tensor_by_name(request, tensor.name)
            if found is not None:
                rows[tensor.name] = found.as_numpy()
        parameters = json.loads(request.parameters() or "{}")
        check_parameters(parameters)
        if parameters.get(contract.PING) is True:
            call.is_ping = True
            return call
        call.deadline = deadline_of(rows, parameters)
        if is_over(call.deadline):
            raise too_late(stage.model.name)
        call.rows = list(stage.read(rows, parameters))
    except LensembleError as error:
        call.rows = [error]
    except Exception:
        logger.exception("%s could not read request %s", stage.model.name, _fit(call.id))
        call.rows = [InternalError("the request could not be read; the model's log says why")]
    return call


def _pinged(stage: Stage[Any, Any]) -> Any:
    """Blank rows, or why the stage cannot work."""
    try:
        stage.check()
    except Exception as error:
        logger.exception("%s cannot do its work", stage.model.name)
        text = f"{stage.model.name} cannot do its work: {type(error).__name__}"
        return pb_utils.InferenceResponse(error=_error(InternalError(text), ""))
    rows = blank_rows(stage.model.outputs)
    tensors = [pb_utils.Tensor(name, values) for name, values in rows.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _fit(id_: str) -> str:
    """A request's id, for the log: others' words go there only if they cannot break out of it."""
    return id_ if _ID.fullmatch(id_) else "-"


def _response(stage: Stage[Any, Any], call: _Call, results: list[Any], worked_ms: float) -> Any:
    for row, result in enumerate(results):
        if isinstance(result, LensembleError):
            if isinstance(result, _OURS):
                logger.error(
                    "%s: request %s: %s", stage.model.name, _fit(call.id), result.to_wire()
                )
            where = f" (row {row} of {len(results)})" if len(results) > 1 else ""
            return pb_utils.InferenceResponse(error=_error(result, where))
    try:
        written = stage.write(results)
        if stage.model.time is not None:
            written[stage.model.time.name] = np.full((len(results), 1), worked_ms, np.float32)
        if contract.DEADLINE in stage.model.outputs:
            written[contract.DEADLINE.name] = np.full((len(results), 1), call.deadline, np.int64)
        tensors = [
            pb_utils.Tensor(tensor.name, written[tensor.name]) for tensor in stage.model.outputs
        ]
    except Exception:
        logger.exception("%s could not write a response", stage.model.name)
        return pb_utils.InferenceResponse(error=_error(InternalError("the model failed"), ""))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _error(error: LensembleError, where: str) -> Any:
    # What stands before a bracket, and only what the contract names: others' words are no labels.
    field = error.field.partition("[")[0]
    with _counting:  # answers of lanes come from a thread of their own
        _errors[error.code, field if field in _FIELDS else "", error.reason] += 1
    codes = {
        "INVALID_ARGUMENT": pb_utils.TritonError.INVALID_ARG,
        # Nor has it PERMISSION_DENIED.
        "PERMISSION_DENIED": pb_utils.TritonError.UNSUPPORTED,
        "NOT_FOUND": pb_utils.TritonError.NOT_FOUND,
        # Triton has no RESOURCE_EXHAUSTED; the tag in the text keeps the two apart.
        "RESOURCE_EXHAUSTED": pb_utils.TritonError.UNAVAILABLE,
        "UNAVAILABLE": pb_utils.TritonError.UNAVAILABLE,
        "CANCELLED": pb_utils.TritonError.CANCELLED,
        # Nor has it DEADLINE_EXCEEDED.
        "DEADLINE_EXCEEDED": pb_utils.TritonError.UNAVAILABLE,
    }
    code = codes.get(error.grpc_status, pb_utils.TritonError.INTERNAL)
    return pb_utils.TritonError(error.to_wire() + where, code)


def _publish(stage: Stage[Any, Any], model: str) -> None:
    """Puts what the stage says of itself among Triton's metrics, as a gauge that is always 1."""
    if stage.about:
        family = pb_utils.MetricFamily(
            name=INFO_METRIC,
            description="What serves: its labels say it.",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        metric = family.Metric(labels={"triton_model": model, **stage.about})
        metric.set(1)
        _published.append((family, metric))  # it is gone from the metrics when collected


def _count(stage: Stage[Any, Any], *, at_once: bool = False) -> None:
    """Brings Triton's metrics up to what the stage has counted and measures.

    Each takes some 30 us, so only a few times a second; at once after errors and pings.
    """
    global _counted_at
    if not at_once and time.monotonic() - _counted_at < _COUNT_S:
        return
    _counted_at = time.monotonic()
    refused = [
        Counter(*_ERRORS, {"code": code, "input": field, "reason": reason}, count)
        for (code, field, reason), count in [*_errors.items()]
    ]
    queues = [] if _lanes is None else [*_queues(_lanes)]
    readings: list[Counter | Gauge] = [*stage.counters(), *refused, *stage.gauges(), *queues]
    for reading in readings:
        is_gauge = isinstance(reading, Gauge)
        key = (reading.name, *reading.labels.items())
        if key not in _counted:
            if reading.name not in _families:
                kind = pb_utils.MetricFamily.GAUGE if is_gauge else pb_utils.MetricFamily.COUNTER
                _families[reading.name] = pb_utils.MetricFamily(
                    name=reading.name, description=reading.help, kind=kind
                )
            metric = _families[reading.name].Metric(
                labels={"triton_model": stage.model.name, **reading.labels}
            )
            _counted[key] = (metric, 0.0)
        metric, before = _counted[key]
        if reading.value == before:
            continue
        if is_gauge:
            metric.set(reading.value)
        else:
            metric.increment(reading.value - before)
        _counted[key] = (metric, reading.value)


def _queues(lanes: Lanes[Any, Any]) -> Iterator[Counter | Gauge]:
    for name, lane in lanes.lanes.items():
        labels = {"lane": name}
        yield Gauge(*_WAITING, labels, lane.rows)
        yield Counter(*_WAITED, labels, lane.waited_s)
        yield Counter(*_PASSES, labels, lane.passes_s)
        yield Counter(*_BEGUN, labels, lane.begun)


class _TritonLog(logging.Handler):
    """Python's log lines in Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        log = pb_utils.Logger
        write = (
            log.log_error
            if record.levelno >= logging.ERROR
            else log.log_warn
            if record.levelno >= logging.WARNING
            else log.log_info
        )
        write(self.format(record))
