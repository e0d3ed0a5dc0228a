"""Errors as OpenAI's clients expect them: a JSON object, a status, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    ReadOnlyError,
)

RETRY_S = 1
"""`Retry-After`, in seconds, where nothing better is known."""

_TAGS = {"text", "parts", "part", "content", "item"}
"""What `schemas` calls the forms of an item; they mean nothing to a caller, but at the end."""
_NOWHERE = ("body", "query", "path", "one", "many", "tokens")


class RefusedError(LensembleError):
    """The gateway refuses the request before any work is done on it.

    Args:
        status: HTTP status code.
        code: Word for the cause.
        message: What was wrong, what was expected, what to do.
        headers: To send along.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.http_status, self.code = status, code
        self.headers = dict(headers or {})


def said(error: LensembleError) -> dict[str, Any]:
    """The error as the object that OpenAI puts under `error`."""
    at_fault = isinstance(error, InvalidInputError | NotFoundError | ReadOnlyError)
    refused = isinstance(error, RefusedError) and error.http_status < HTTPStatus.TOO_MANY_REQUESTS
    return {
        "message": str(error),
        "type": "invalid_request_error" if at_fault or refused else f"{error.code}_error",
        "param": error.field or None,
        "code": error.code,
    }


def headers_of(error: LensembleError) -> dict[str, str]:
    """What to send beside the error."""
    if isinstance(error, RefusedError):
        return error.headers
    if isinstance(error, OverloadedError | NotReadyError):
        return {"Retry-After": str(RETRY_S)}
    return {}


def after(seconds: float) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least 1."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def placed(error: LensembleError, place: str) -> LensembleError:
    """The same error, with the item it belongs to before its field."""
    field = f"{place}.{error.field}" if error.field else place
    copy = type(error)(error.message, field=field)
    copy.__cause__ = error
    return copy


def from_validation(errors: Sequence[Mapping[str, Any]]) -> InvalidInputError:
    """What pydantic found, as one error: the first, with its place.

    Args:
        errors: Of pydantic's `ValidationError`, or FastAPI's.
    """
    # An unknown or missing field says more than what follows from it.
    first = min(errors, key=lambda one: one["type"] not in ("extra_forbidden", "missing"))
    field = ""
    for part in first["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part not in _NOWHERE and part not in _TAGS - {first["loc"][-1]}:
            field += f".{part}" if field else str(part)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = str(first["msg"])
    if first["type"] == "value_error":  # ours: it says all
        message, more = message.removeprefix("Value error, "), ""
    elif first["type"] == "extra_forbidden":
        message = "there is no such field here"
    elif first["loc"] == ("body",) and first["type"] == "model_attributes_type":
        message = "the body is not a JSON object; send one, with `Content-Type: application/json`"
    elif first["type"] == "json_invalid":
        message, field = f"the body is not JSON: {first['ctx']['error']}", ""
    elif first["type"] == "missing":
        message = "it is missing"
    elif isinstance(first.get("input"), str | int | float | bool | None):
        message += f", not {str(first.get('input'))[:60]!r}"
    return InvalidInputError(message + more, field=field)
