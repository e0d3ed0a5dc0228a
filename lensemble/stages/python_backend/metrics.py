"""Brings the numbers of a model process into Triton's metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter as CountByKey
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lensemble.scheduling.lanes import Lane
from lensemble.stages.python_backend import triton_api
from lensemble.stages.stage import Counter, Gauge
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    LensembleError,
    NotReadyError,
    StorageError,
)

# A gauge that is always 1. Its labels describe the model; the gateway reads them.
INFO_METRIC = "lensemble_model_info"

_ERRORS = ("lensemble_errors_total", "Requests that were answered with an error.")
_WAITING = ("lensemble_lane_waiting", "Rows that wait for the encoder.")
_WAITED = ("lensemble_lane_waited_seconds_total", "Seconds that rows waited before their pass.")
_PASSES = ("lensemble_lane_pass_seconds_total", "Seconds of the passes that rows were in.")
_ROWS = ("lensemble_lane_rows_total", "Rows that were put into a pass.")

# Least seconds between two updates. An update of one metric takes about 30 us.
_UPDATE_EVERY_S = 0.1
# Alerts watch these errors, so their counters exist from the start, at 0: a counter that first
# appears with the value 1 shows no increase.
_ERRORS_FROM_THE_START = (InternalError, NotReadyError, StorageError, DeadlineExceededError)
# Only these names become values of the label `input`; words of callers do not.
_KNOWN_INPUTS = {
    *contract.PARAMETERS,
    *(tensor.name for model in contract.PROCESS_MODELS.values() for tensor in model.inputs),
}


class ErrorCounts:
    """Counts the errors with which requests were answered; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: CountByKey[tuple[str, str, str]] = CountByKey()
        for error in _ERRORS_FROM_THE_START:
            self._counts[error.code, "", ""] = 0

    def add(self, error: LensembleError) -> None:
        """Counts one error."""
        name = error.field.partition("[")[0]  # `image[2]` is counted as `image`
        with self._lock:
            self._counts[error.code, name if name in _KNOWN_INPUTS else "", error.reason] += 1

    def total(self) -> int:
        """Number of all errors."""
        with self._lock:
            return self._counts.total()

    def counters(self) -> list[Counter]:
        """The counts, for `MetricsPublisher`."""
        with self._lock:
            return [
                Counter(*_ERRORS, {"code": code, "input": name, "reason": reason}, count)
                for (code, name, reason), count in self._counts.items()
            ]


def lane_readings(lanes: Mapping[str, Lane]) -> Iterator[Counter | Gauge]:
    """Measurements of the encoder's lanes, for `MetricsPublisher`."""
    for name, lane in lanes.items():
        labels = {"lane": name}
        yield Gauge(*_WAITING, labels, lane.waiting_rows)
        yield Counter(*_WAITED, labels, lane.waited_s)
        yield Counter(*_PASSES, labels, lane.passes_s)
        yield Counter(*_ROWS, labels, lane.started_rows)


class MetricsPublisher:
    """The metrics of one model process; safe for several threads.

    Args:
        model: name of the model, which becomes the label `triton_model`.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._updated_at = 0.0
        # Triton drops a metric when its Python object is collected.
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[Any, ...], tuple[Any, float]] = {}

    def publish_info(self, info: Mapping[str, str]) -> None:
        """Publishes facts about the model as labels of `INFO_METRIC`."""
        if info:
            family = triton_api.metric_family(
                INFO_METRIC, "What serves; the labels describe it.", is_gauge=True
            )
            metric = triton_api.metric(family, {"triton_model": self._model, **info})
            metric.set(1)
            self._families[INFO_METRIC] = family
            self._metrics[INFO_METRIC,] = metric, 1

    def is_due(self) -> bool:
        """Whether the last update was long enough ago to do the next one."""
        return time.monotonic() - self._updated_at >= _UPDATE_EVERY_S

    def update(self, readings: Sequence[Counter | Gauge]) -> None:
        """Sets Triton's metrics to the current values."""
        with self._lock:
            self._updated_at = time.monotonic()
            for reading in readings:
                self._update_one(reading)

    def _update_one(self, reading: Counter | Gauge) -> None:
        is_gauge = isinstance(reading, Gauge)
        key = (reading.name, *reading.labels.items())
        if key not in self._metrics:
            if reading.name not in self._families:
                self._families[reading.name] = triton_api.metric_family(
                    reading.name, reading.help, is_gauge=is_gauge
                )
            labels = {"triton_model": self._model, **reading.labels}
            self._metrics[key] = (triton_api.metric(self._families[reading.name], labels), 0.0)
        metric, before = self._metrics[key]
        if reading.value == before:
            return
        if is_gauge:
            metric.set(reading.value)
        else:
            metric.increment(reading.value - before)
        self._metrics[key] = (metric, reading.value)
