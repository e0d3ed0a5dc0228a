"""Reads request parameters, such as `dimensions` and `top_k`.

Protocols carry them in different types: a number may arrive as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lensemble.scheduling import deadline
from lensemble.vectors import Vector, cut_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Rows

Parameters = Mapping[str, Any]

# Beginnings of Triton's own parameters, and of headers that Triton may be told to forward.
_FOREIGN_PREFIXES = ("triton_", "binary_data", "sequence_", "x-", "traceparent")


def check_parameters(parameters: Parameters) -> None:
    """Refuses parameters that no model reads, because a misspelt one would have no effect.

    Raises:
        InvalidInputError: A parameter is neither known nor one of Triton or a proxy.
    """
    for name in parameters:
        if name not in contract.PARAMETERS and not name.lower().startswith(_FOREIGN_PREFIXES):
            raise InvalidInputError(
                f"no such request parameter; the parameters are {', '.join(contract.PARAMETERS)}",
                field=name,
            )


def text(parameters: Parameters, name: str) -> str:
    """A parameter that is text; empty if it is absent.

    Raises:
        InvalidInputError: The parameter is not a string.
    """
    value = parameters.get(name, "")
    if not isinstance(value, str):
        raise InvalidInputError(f"{value!r}; expected a string", field=name)
    return value


def number(parameters: Parameters, name: str, default: float) -> float:
    """A parameter that is a finite number, or the text of one.

    Raises:
        InvalidInputError: The parameter is not a finite number.
    """
    value = parameters.get(name, default)
    try:
        if isinstance(value, bool):
            raise ValueError
        parsed = float(value)
    except (TypeError, ValueError):
        parsed = math.nan
    if math.isfinite(parsed) or parsed == default:
        return parsed
    raise InvalidInputError(f"{value!r}; expected a finite number", field=name)


def whole_number(parameters: Parameters, name: str) -> int | None:
    """A parameter that is a whole number, or the text of one; None if it is absent.

    Raises:
        InvalidInputError: The parameter is not a whole number.
    """
    value = parameters.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        if not isinstance(value, str):
            raise ValueError
        return int(value)
    except ValueError:
        raise InvalidInputError(f"{value!r} is not a whole number", field=name) from None


def names(parameters: Parameters, name: str, limit: int) -> tuple[str, ...]:
    """A parameter that is the JSON text of a list of strings; empty if it is absent.

    Raises:
        InvalidInputError: The parameter is something else, or has more than `limit` strings.
    """
    json_text = text(parameters, name)
    if not json_text:
        return ()
    try:
        strings = json.loads(json_text)
        if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
            raise ValueError("not a list of strings")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{json_text[:60]!a}; expected the JSON text of a list of strings ({error})",
            field=name,
        ) from error
    if len(strings) > limit:
        raise InvalidInputError(f"{len(strings)} strings; expected at most {limit}", field=name)
    return tuple(strings)


def deadline_of(rows: Rows, parameters: Parameters) -> int:
    """The deadline of a request: what an earlier model passed on, or else now plus the timeout.

    Args:
        rows: input tensors of the request.
        parameters: parameters of the request.

    Returns:
        A deadline as in `lensemble.scheduling.deadline`.

    Raises:
        InvalidInputError: The timeout is not a positive number.
    """
    passed_on = rows.get(contract.DEADLINE.name)
    if passed_on is not None:
        return int(passed_on.max(initial=deadline.NEVER))
    if contract.TIMEOUT_MS not in parameters:
        return deadline.NEVER
    return deadline.from_timeout(number(parameters, contract.TIMEOUT_MS, 0.0))


def cut_to_index(
    vectors: Vector,
    parameters: Parameters,
    *,
    index_dimension: int,
    profile_dimension: int,
) -> Vector:
    """Cuts full-length vectors to the length of an index of shorter (Matryoshka) vectors.

    Vectors of another length, and requests that ask for a length themselves, are left as they are.

    Args:
        vectors: (B, D) float32.
        parameters: parameters of the request.
        index_dimension: length of the index's vectors.
        profile_dimension: length of the profile's full vectors.

    Returns:
        (B, D) or (B, index_dimension) float32; cut vectors have unit length. Vectors that are zero
        or not finite stay so, for the index to refuse.
    """
    length = vectors.shape[1]
    asked = whole_number(parameters, contract.DIMENSIONS)
    if asked is not None or not length == profile_dimension > index_dimension:
        return vectors
    return cut_rows(vectors, index_dimension)
