"""The parts of Triton's Python backend that are used; the only module that imports it.

Triton provides `triton_python_backend_utils` inside model processes only. It has no type hints, so
its objects are `Any` here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from lensemble_contract.contract import Tensor
from lensemble_contract.items import Rows

# gRPC status, and the name of Triton's code. Triton has no codes for three statuses:
# RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED become UNAVAILABLE, PERMISSION_DENIED becomes
# UNSUPPORTED. The tag in the error's text tells them apart. The codes themselves cannot be looked
# up here: Triton adds them to the module only after it has imported the model.
_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "PERMISSION_DENIED": "UNSUPPORTED",
    "NOT_FOUND": "NOT_FOUND",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "UNAVAILABLE": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "DEADLINE_EXCEEDED": "UNAVAILABLE",
}


def read_tensors(request: Any, tensors: Sequence[Tensor]) -> Rows:
    """The input tensors of a request, without optional ones that are absent.

    The arrays lie in the request's memory, which Triton frees after the answer.
    """
    rows = {}
    for tensor in tensors:
        value = pb_utils.get_input_tensor_by_name(request, tensor.name)
        if value is not None:
            rows[tensor.name] = value.as_numpy()
    return rows


def read_parameters(request: Any) -> dict[str, Any]:
    """The parameters of a request."""
    parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    return parameters


def tensor_response(rows: Rows, tensors: Sequence[Tensor]) -> Any:
    """A response with output tensors.

    Args:
        rows: arrays by the tensors' names.
        tensors: the model's outputs.
    """
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(tensor.name, rows[tensor.name]) for tensor in tensors]
    )


def error_response(message: str, grpc_status: str) -> Any:
    """A response with an error.

    Args:
        message: text for the caller.
        grpc_status: name of the gRPC status.
    """
    code = getattr(pb_utils.TritonError, _CODES.get(grpc_status, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def send(sender: Any, response: Any) -> None:
    """Sends the only response of a request that was answered by None at first.

    Args:
        sender: what `request.get_response_sender()` returned.
        response: the response.
    """
    sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def metric_family(name: str, description: str, *, is_gauge: bool) -> Any:
    """A new family of gauges or counters; its metrics vanish when the object is collected."""
    kind = pb_utils.MetricFamily.GAUGE if is_gauge else pb_utils.MetricFamily.COUNTER
    return pb_utils.MetricFamily(name=name, description=description, kind=kind)


def metric(family: Any, labels: Mapping[str, str]) -> Any:
    """A new metric of a family, with methods `set` (gauges) and `increment` (counters)."""
    return family.Metric(labels=dict(labels))


class TritonLogHandler(logging.Handler):
    """Writes Python's log records into Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.levelno >= logging.ERROR:
            write = pb_utils.Logger.log_error
        elif record.levelno >= logging.WARNING:
            write = pb_utils.Logger.log_warn
        else:
            write = pb_utils.Logger.log_info
        write(self.format(record))
