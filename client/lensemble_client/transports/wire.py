"""Converts requests, answers and errors between Lensemble and `tritonclient`.

The modules of tritonclient have classes of the same names, so all transports share these functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lensemble_contract import contract
from lensemble_contract.direct_connections import is_this_machine
from lensemble_contract.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    from_wire,
)
from lensemble_contract.items import Rows
from lensemble_contract.parameters import check_parameter

# Name of a request parameter -> its value.
Parameters: TypeAlias = Mapping[str, str | int | bool]

# Options of all gRPC channels: messages of any length, quick reconnection to a restarted server.
_GRPC_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default gRPC waits up to two minutes between attempts to reconnect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

# A timeout of this length or more, such as infinity, is none: eleven days.
_MAX_TIMEOUT_S = 1e6


def grpc_channel_options(address: str) -> list[tuple[str, int]]:
    """Returns the options of a gRPC channel.

    By itself, gRPC connects through the proxy that `http_proxy` names, even to this machine, which
    a proxy cannot reach. For other machines, `no_proxy` names those without a proxy, as usual.

    Args:
        address: `host:port` of the server.
    """
    options = list(_GRPC_CHANNEL)
    if is_this_machine(address.rpartition(":")[0]):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def with_timeout(parameters: Parameters, timeout_s: float) -> dict[str, str | int | bool]:
    """Returns request parameters with the caller's timeout added, unless it is too long to send.

    Args:
        parameters: Request parameters of the call.
        timeout_s: Seconds for which the caller waits.

    Raises:
        InvalidInputError: No protocol can carry a parameter as it is (`check_parameter`).
    """
    for name, value in parameters.items():
        check_parameter(name, value)
    if limited(timeout_s) is None:
        return dict(parameters)
    return {contract.TIMEOUT_MS: max(1, round(timeout_s * 1000)), **parameters}


def limited(timeout_s: float) -> float | None:
    """Returns a timeout in seconds, or None if it is so long that it is none.

    gRPC fails at once with a longer one, such as infinity.
    """
    return timeout_s if timeout_s < _MAX_TIMEOUT_S else None


def request_inputs(triton: Any, model: contract.Model, rows: Rows) -> list[Any]:
    """Converts rows to the inputs of a request, in binary.

    Args:
        triton: The module `tritonclient.grpc`, `.grpc.aio` or `.http`.
        model: The model to run.
        rows: Input name -> array (B, ...); arrays that are not inputs of the model are ignored.

    Returns:
        Objects of the module's class `InferInput`.

    Raises:
        InvalidInputError: An array has the wrong dtype.
    """
    converted = []
    for tensor in model.inputs:
        if tensor.name in rows:
            array = rows[tensor.name]
            # config.pbtxt calls this type STRING, and the protocol calls it BYTES.
            dtype = "BYTES" if tensor.dtype == "STRING" else tensor.dtype
            value = triton.InferInput(tensor.name, list(array.shape), dtype)
            _fill(value, array, tensor)
            converted.append(value)
    return converted


def _fill(value: Any, array: NDArray[Any], tensor: contract.Tensor) -> None:
    try:
        value.set_data_from_numpy(array)
    except Exception as error:  # tritonclient has no narrower class for this
        raise InvalidInputError(
            f"an array of {array.dtype}; expected {tensor.dtype}", field=tensor.name
        ) from error


def request_outputs(triton: Any, model: contract.Model) -> list[Any]:
    """Returns the outputs that a request asks for: all outputs of the model, in binary.

    Args:
        triton: As in `request_inputs`.
        model: The model to run.

    Returns:
        Objects of the module's class `InferRequestedOutput`.
    """
    return [triton.InferRequestedOutput(tensor.name) for tensor in model.outputs]


def answer_rows(result: Any, outputs: Sequence[contract.Tensor]) -> Rows:
    """Converts an answer to rows.

    Args:
        result: `InferResult` of any of tritonclient's modules.
        outputs: The outputs that were requested.

    Returns:
        Output name -> array (B, ...).

    Raises:
        InternalError: An output is missing in the answer.
    """
    rows: Rows = {}
    for tensor in outputs:
        array = result.as_numpy(tensor.name)
        if array is None:
            raise from_wire("INTERNAL", f"the answer has no output {tensor.name!r}")
        rows[tensor.name] = np.asarray(array)
    return rows


def message_of(answer: bytes) -> str:
    """Returns Triton's message in the body of an HTTP answer with an error status."""
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace") or "no message"


def translate_error(error: Exception, timeout_s: float) -> LensembleError:
    """Converts an exception of tritonclient or its libraries to an error of Lensemble.

    Args:
        error: The exception.
        timeout_s: Timeout of the request, for the message.
    """
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        mapped = from_wire(error.status(), error.message() or "no message")
        from_server = f"[{DeadlineExceededError.code}]" in (error.message() or "")
        if isinstance(mapped, DeadlineExceededError) and not from_server:
            return DeadlineExceededError(f"no answer within {timeout_s:g} s")
        if isinstance(mapped, CancelledError) and not _a_caller_gave_up(error.message() or ""):
            return NotReadyError(f"the server ended the call, as it does when it stops: {mapped}")
        return mapped
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(error, OSError):
        return NotReadyError(f"cannot reach the server: {error}")
    return NotReadyError(
        f"no Lensemble server answers at this address ({type(error).__name__}: {error})"
    )


def _a_caller_gave_up(message: str) -> bool:
    """Whether a call was cancelled by this process, or by the server because its caller left."""
    reasons = ("Locally cancelled", "Channel closed", f"[{CancelledError.code}]")
    return any(reason in message for reason in reasons)
