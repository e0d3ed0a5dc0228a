"""Reads request parameters, such as `dimensions` and `top_k`.

Protocols carry them in different types: a number may arrive as text. The server and the fake server
of `lensemble_client.testing` both read them with these functions, and the clients check with
`check_parameter` that a protocol can carry what they send.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.index_checks import MAX_ID_BYTES, check_id
from lensemble_contract.texts import check_unicode, quoted

# Name of a request parameter -> its value, of any type that a caller may have sent.
Parameters: TypeAlias = Mapping[str, Any]

# Longest text of a parameter that has no limit of its own: a hash, an id, the name of an operation.
_MAX_TEXT = 1024
# UTF-8 bytes of the JSON text of one id: an escape takes six bytes for one.
_MAX_ID_JSON_BYTES = 6 * MAX_ID_BYTES + 4
# gRPC and Triton have whole numbers of 64 bits.
_INT64 = 2**63


def text(parameters: Parameters, name: str, limit: int = _MAX_TEXT) -> str:
    """A parameter that is text; empty if it is absent.

    Args:
        parameters: Request parameters.
        name: Name of the parameter.
        limit: Largest number of characters.

    Raises:
        InvalidInputError: The parameter is not a string, or is too long.
    """
    value = parameters.get(name, "")
    if not isinstance(value, str):
        raise InvalidInputError(f"{quoted(value)}; expected a string", field=name)
    if len(value) > limit:
        raise InvalidInputError(
            f"{quoted(value)} has {len(value)} characters; expected at most {limit}", field=name
        )
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
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if math.isfinite(parsed) or parsed == default:
        return parsed
    raise InvalidInputError(f"{quoted(value)}; expected a finite number", field=name)


def whole_number(parameters: Parameters, name: str) -> int | None:
    """A parameter that is a whole number of 64 bits, or the text of one; None if it is absent.

    Raises:
        InvalidInputError: The parameter is not such a number.
    """
    value = parameters.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        parsed = int(value)
        if not -_INT64 <= parsed < _INT64:
            raise ValueError
    except ValueError:
        raise InvalidInputError(
            f"{quoted(value)} is not a whole number of at most 64 bits", field=name
        ) from None
    return parsed


def ids(parameters: Parameters, name: str, limit: int) -> tuple[str, ...]:
    """A parameter that is the JSON text of a list of ids; empty if it is absent.

    Raises:
        InvalidInputError: The parameter is something else, has more than `limit` ids, or an id is
            not valid.
    """
    json_text = text(parameters, name, limit * _MAX_ID_JSON_BYTES)
    if not json_text:
        return ()
    try:
        values = json.loads(json_text)
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ValueError("not a list of strings")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{quoted(json_text)}; expected the JSON text of a list of strings ({error})",
            field=name,
        ) from error
    if len(values) > limit:
        raise InvalidInputError(f"{len(values)} strings; expected at most {limit}", field=name)
    return tuple(check_id(id_, f"{name}[{n}]") for n, id_ in enumerate(values))


def check_parameter(name: str, value: object) -> None:
    """Checks that every protocol carries a parameter to the models as it is.

    Otherwise protobuf would raise its own errors, and Triton would end a text at U+0000.

    Raises:
        InvalidInputError: The value is a whole number of more than 64 bits, a number that is not
            finite, a text with U+0000 or an unpaired surrogate, or of another type.
    """
    if isinstance(value, str):
        try:
            check_unicode(value)
        except ValueError as error:
            raise InvalidInputError(f"{quoted(value)} is {error}", field=name) from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{value}; expected a finite number", field=name)
    elif not isinstance(value, bool | int):
        raise InvalidInputError(
            f"{quoted(value)} is of type {type(value).__name__}; expected a number or a string",
            field=name,
        )
    elif not -_INT64 <= value < _INT64:
        raise InvalidInputError(
            f"{quoted(value)} is not a whole number of at most 64 bits", field=name
        )
