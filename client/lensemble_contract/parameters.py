"""Reads request parameters, such as `dimensions` and `top_k`.

Protocols carry them in different types: a number may arrive as text. The server and the fake server
of `lensemble_client.testing` both read them with these functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from lensemble_contract.errors import InvalidInputError

# Name of a request parameter -> its value, of any type that a caller may have sent.
Parameters: TypeAlias = Mapping[str, Any]


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
