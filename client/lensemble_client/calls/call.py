"""One request to a model, and how its answer is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lensemble_client.results import Measured
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import check_parameter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to a model.

    Attributes:
        model: The model to run; its `outputs` are the ones that are requested.
        rows: Inputs of the model.
        parameters: Request parameters.
        read: Function that converts the outputs of the model to the result for the caller.
        writes: Whether the call changes the index.
    """

    model: contract.Model
    rows: Rows
    parameters: Parameters
    read: Callable[[Rows], T]
    writes: bool = False


def measured(call: Call[list[T]]) -> Call[list[Measured[T]]]:
    """Returns the same call with results that also have tokens, stage times and profile."""
    available = contract.ALL_MODELS[call.model.name].outputs
    extra = [
        tensor
        for tensor in (contract.TOKENS, contract.VECTOR_PROFILE, *contract.STAGE_TIMES)
        if tensor in available
    ]

    def read(rows: Rows) -> list[Measured[T]]:
        results = call.read(rows)
        times_ms = {
            tensor.name.removesuffix("_ms"): float(rows[tensor.name][0, 0])
            for tensor in extra
            if tensor in contract.STAGE_TIMES
        }
        counts = rows.get(contract.TOKENS.name)
        tokens = [0] * len(results) if counts is None else counts[:, 0].tolist()
        profile = ""
        if contract.VECTOR_PROFILE in extra:
            profile = rows[contract.VECTOR_PROFILE.name][0, 0].decode()
        return [
            Measured(result, count, times_ms, profile)
            for result, count in zip(results, tokens, strict=True)
        ]

    model = call.model.with_outputs(*call.model.outputs, *extra)
    return Call(model, call.rows, call.parameters, read, call.writes)


def without_none(**values: str | int | None) -> Parameters:
    """Returns the request parameters whose value is not None.

    Raises:
        InvalidInputError: No protocol can carry a parameter as it is (`check_parameter`).
    """
    parameters: dict[str, str | int | bool] = {}
    for name, value in values.items():
        if value is not None:
            parameters[name] = int(value) if isinstance(value, np.integer) else value
            check_parameter(name, parameters[name])
    return parameters


def json_text(value: object, field: str) -> str:
    """Returns a value as compact JSON text, in which letters are not escaped.

    Raises:
        InvalidInputError: The value cannot be written as JSON; the error names `field`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot be written as JSON: {error}", field=field) from error
    return text
