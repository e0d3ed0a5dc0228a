"""Errors as OpenAI's clients expect them: a JSON object, a status, and when to try again."""

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

# Seconds in the `Retry-After` header where no better value is known.
RETRY_S = 1

# Tags of the unions in `inputs.request_schemas`. pydantic puts them into the location of an error,
# where they mean nothing to a caller. Some tags are also names of fields: the last part of a
# location is always a field.
_ITEM_FORM_TAGS = {"text", "content"}
# Types of pydantic's errors, the most important first.
_IMPORTANCE = {"extra_forbidden": 0, "missing": 1}
# Parts of a location that are never names of fields.
_NOT_FIELDS = ("body", "query", "path", "one", "many", "tokens", "parts", "part", "item")


class RefusedError(LensembleError):
    """The gateway refuses a request before any work is done for it, or the chat server fails.

    Args:
        status: HTTP status code.
        code: error code, such as `rate_limited`.
        message: what was wrong, what was expected, and what to do.
        headers: additional response headers.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.http_status, self.code = status, code
        self.headers = dict(headers or {})


def error_object(error: LensembleError) -> dict[str, Any]:
    """The JSON object that OpenAI's error responses have under `error`."""
    callers_fault = isinstance(error, InvalidInputError | NotFoundError | ReadOnlyError) or (
        isinstance(error, RefusedError) and error.http_status < HTTPStatus.TOO_MANY_REQUESTS
    )
    return {
        "message": str(error),
        "type": "invalid_request_error" if callers_fault else f"{error.code}_error",
        "param": error.field or None,
        "code": error.code,
    }


def error_headers(error: LensembleError) -> dict[str, str]:
    """Response headers for an error: its own, or `Retry-After` for overload and start-up."""
    if isinstance(error, RefusedError):
        return error.headers
    if isinstance(error, OverloadedError | NotReadyError):
        return retry_after(RETRY_S)
    return {}


def retry_after(seconds: float) -> dict[str, str]:
    """The `Retry-After` header, in whole seconds and at least 1."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def with_location(error: LensembleError, location: str, hint: str = "") -> LensembleError:
    """A copy of the error whose field starts with a location, such as `input[2]`.

    Args:
        error: the error.
        location: place of the item.
        hint: text that is added to the message.
    """
    field = f"{location}.{error.field}" if error.field else location
    copy = type(error)(error.message + hint, field=field, reason=error.reason)
    copy.__cause__ = error
    return copy


def from_validation_errors(errors: Sequence[Mapping[str, Any]]) -> InvalidInputError:
    """The most helpful one of pydantic's errors, with the path of its field.

    Args:
        errors: `errors()` of pydantic's `ValidationError` or FastAPI's `RequestValidationError`.
    """
    # An unknown or missing field comes first: it is often the cause of the other errors. A misspelt
    # field is also missing.
    error = min(errors, key=lambda entry: _IMPORTANCE.get(entry["type"], len(_IMPORTANCE)))
    if error["type"] == "value_error":  # raised by our own validators, with a complete message
        message = str(error["msg"]).removeprefix("Value error, ")
        return InvalidInputError(message, field=_field_path(error["loc"]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if error["type"] == "json_invalid":
        return InvalidInputError(f"the body is not JSON: {error['ctx']['error']}{more}")
    return InvalidInputError(_message(error) + more, field=_field_path(error["loc"]))


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field here; see /docs for the fields of this request"
    if error["type"] == "missing":
        return "it is missing"
    if error["type"] == "model_attributes_type" and error["loc"] == ("body",):
        return "the body is not a JSON object; send one, with `Content-Type: application/json`"
    message, value = str(error["msg"]), error.get("input")
    if isinstance(value, str):
        message += f", not {value[:60]!r}"
    elif isinstance(value, int | float | bool | None):
        message += f", not {str(value)[:60]!r}"
    return message


def _field_path(location: Sequence[int | str]) -> str:
    """("body", "input", "many", 1, "item", "image") -> `input[1].image`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _NOT_FIELDS and not (part in _ITEM_FORM_TAGS and part != location[-1]):
            path += f".{part}" if path else part
    return path
