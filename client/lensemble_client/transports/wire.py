"""Rows to and from `tritonclient`, and its errors to ours; the same for all four of its clients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    from_wire,
)
from lensemble_contract.items import Rows

Parameters = Mapping[str, str | int | bool]
"""Request parameters."""


GRPC_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default, who was refused some times looks for the server again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of gRPC channels: messages of any length, and a server that comes back is soon found."""

_FOR_EVER_S = 1e6

_TRITON_DTYPES = {
    "STRING": "BYTES",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "FP32": "FP32",
}


def sent(parameters: Parameters, timeout_s: float) -> dict[str, str | int | bool]:
    """Parameters of a request, with how long its caller waits.

    Args:
        parameters: That the call has.
        timeout_s: Seconds.
    """
    if not timeout_s < _FOR_EVER_S:
        return dict(parameters)
    return {contract.TIMEOUT_MS: max(1, round(timeout_s * 1000)), **parameters}


def inputs(triton: Any, model: contract.Model, rows: Rows) -> list[Any]:
    """The rows as inputs of a request, in binary.

    Args:
        triton: `tritonclient.grpc`, `.grpc.aio` or `.http`.
        model: That is run.
        rows: Input name -> array (B, ...); what the model does not take is left out.

    Returns:
        `InferInput` of that module.

    Raises:
        InvalidInputError: An array is of another dtype.
    """
    made = []
    for tensor in model.inputs:
        if tensor.name in rows:
            array = rows[tensor.name]
            value = triton.InferInput(tensor.name, list(array.shape), _TRITON_DTYPES[tensor.dtype])
            _fill(value, array, tensor)
            made.append(value)
    return made


def _fill(value: Any, array: NDArray[Any], tensor: contract.Tensor) -> None:
    try:
        value.set_data_from_numpy(array)
    except Exception as error:  # tritonclient's only class
        raise InvalidInputError(
            f"an array of {array.dtype}; expected {tensor.dtype}", field=tensor.name
        ) from error


def outputs(triton: Any, model: contract.Model) -> list[Any]:
    """The outputs of a model as those that a request asks for, over HTTP in binary.

    Args:
        triton: As of `inputs`.
        model: That is run.

    Returns:
        `InferRequestedOutput` of that module.
    """
    return [triton.InferRequestedOutput(tensor.name) for tensor in model.outputs]


def arrays(result: Any, outputs: Sequence[contract.Tensor]) -> Rows:
    """Reads an answer.

    Args:
        result: `InferResult` of any of tritonclient's modules.
        outputs: That were asked for.

    Returns:
        Output name -> array (B, ...).

    Raises:
        InternalError: One is missing.
    """
    found: Rows = {}
    for tensor in outputs:
        array = result.as_numpy(tensor.name)
        if array is None:
            raise from_wire("INTERNAL", f"the answer has no output {tensor.name!r}")
        found[tensor.name] = np.asarray(array)
    return found


def said(answer: bytes) -> str:
    """Triton's message in an HTTP answer that is none."""
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace") or "no message"


def translated(error: Exception, timeout_s: float) -> LensembleError:
    """Maps what tritonclient and its libraries raise to the tree of `errors`."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        mapped = from_wire(error.status(), error.message() or "no message")
        ours = f"[{DeadlineExceededError.code}]" in (error.message() or "")
        if isinstance(mapped, DeadlineExceededError) and not ours:
            return DeadlineExceededError(f"no answer within {timeout_s:g} s")
        return mapped
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(error, OSError):
        return NotReadyError(f"cannot reach the server: {error}")
    return NotReadyError(f"no Lensemble server answers there ({type(error).__name__}: {error})")
