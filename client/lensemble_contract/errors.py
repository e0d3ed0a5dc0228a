"""All errors that Lensemble raises, as one tree of classes.

    LensembleError
    ├── InvalidInputError       400  INVALID_ARGUMENT    the input is not valid; names its field
    ├── ReadOnlyError           403  PERMISSION_DENIED   the server accepts no writes
    ├── NotFoundError           404  NOT_FOUND           there is no such model or item
    ├── OverloadedError         429  RESOURCE_EXHAUSTED  too much work; try again later
    ├── CancelledError          499  CANCELLED           the caller gave up
    ├── InternalError           500  INTERNAL            a fault of the service
    ├── StorageError            507  DATA_LOSS           disk full, or an index file is damaged
    ├── NotReadyError           503  UNAVAILABLE         starting, gone, or no index is loaded
    └── DeadlineExceededError   504  DEADLINE_EXCEEDED   the answer took longer than the timeout

On the wire an error is the text `[code] field: message`. The client reads that text and raises the
same error as the server. This works over gRPC and HTTP, and also if an ensemble of Triton puts text
in front of the message.
"""

from __future__ import annotations

import re

__all__ = [
    "CancelledError",
    "DeadlineExceededError",
    "InternalError",
    "InvalidInputError",
    "LensembleError",
    "NotFoundError",
    "NotReadyError",
    "OverloadedError",
    "ReadOnlyError",
    "StorageError",
    "from_wire",
]


class LensembleError(Exception):
    """Base class of all errors that Lensemble raises.

    Attributes:
        code: Name of the error's class in the text on the wire, such as `not_found`.
        grpc_status: Name of the gRPC status code.
        http_status: HTTP status code.
        message: Text for people: the problem, what was expected, and what to do.
        field: Name of the input that is not valid, such as `image[1]`; empty if there is none.
        reason: Label under which metrics count the error; not on the wire.
    """

    code = "error"
    grpc_status = "UNKNOWN"
    http_status = 500

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field, self.reason = field, reason

    def to_wire(self) -> str:
        """Returns the text on the wire, from which `from_wire` makes the same error."""
        return f"[{self.code}] {self}"


class InvalidInputError(LensembleError):
    """The input is not valid; the same request would fail again."""

    code, grpc_status, http_status = "invalid_input", "INVALID_ARGUMENT", 400


class ReadOnlyError(LensembleError):
    """The server accepts no writes."""

    code, grpc_status, http_status = "read_only", "PERMISSION_DENIED", 403


class NotFoundError(LensembleError):
    """The server has no such model, or the index has no such item."""

    code, grpc_status, http_status = "not_found", "NOT_FOUND", 404


class OverloadedError(LensembleError):
    """The service has too much work, and refused the request before it began any work on it."""

    code, grpc_status, http_status = "overloaded", "RESOURCE_EXHAUSTED", 429


class CancelledError(LensembleError):
    """The caller gave up the request."""

    code, grpc_status, http_status = "cancelled", "CANCELLED", 499


class InternalError(LensembleError):
    """The service failed; the input is not the cause."""

    code, grpc_status, http_status = "internal", "INTERNAL", 500


class StorageError(LensembleError):
    """An index file cannot be read or written: the disk is full, the file is damaged or locked."""

    code, grpc_status, http_status = "storage", "DATA_LOSS", 507


class NotReadyError(LensembleError):
    """The service cannot be reached, is starting or stopping, or has no index loaded."""

    code, grpc_status, http_status = "not_ready", "UNAVAILABLE", 503


class DeadlineExceededError(LensembleError):
    """The answer did not come within the timeout."""

    code, grpc_status, http_status = "deadline_exceeded", "DEADLINE_EXCEEDED", 504


_CLASSES = (
    InvalidInputError,
    ReadOnlyError,
    NotFoundError,
    OverloadedError,
    CancelledError,
    InternalError,
    StorageError,
    NotReadyError,
    DeadlineExceededError,
)
_BY_CODE = {cls.code: cls for cls in _CLASSES}

# Classes for statuses that Triton or a proxy sets itself. Their messages contain no `[code]`.
_BY_STATUS: dict[str, type[LensembleError]] = {
    **{cls.grpc_status: cls for cls in _CLASSES},
    **{str(cls.http_status): cls for cls in _CLASSES},
    "OUT_OF_RANGE": InvalidInputError,
    "FAILED_PRECONDITION": InvalidInputError,
    "ALREADY_EXISTS": InvalidInputError,
    "UNIMPLEMENTED": InvalidInputError,
    "ABORTED": OverloadedError,
    "UNAUTHENTICATED": InvalidInputError,
    "UNKNOWN": InternalError,
}
# Parts of Triton's messages for a model that cannot serve now: with the status INTERNAL, its
# process has died; with NOT_FOUND, the server is stopping and has unloaded it, or is starting. A
# model that the server does not have `is not found` instead.
_NOT_SERVING = ("is not healthy", "has no available versions")
_TAGGED = re.compile(rf"\[({'|'.join(_BY_CODE)})\] (?:([a-z_]+(?:\[\d+\])?): )?(.*)", re.DOTALL)


def from_wire(status: str | None, message: str) -> LensembleError:
    """Returns the error for the status and the message of a failed call.

    Args:
        status: gRPC status name, with or without `StatusCode.`, or HTTP status as text; None if the
            call did not reach a server.
        message: The text that came with the status.

    Returns:
        An instance of a subclass of `LensembleError`, never of `LensembleError` itself.
    """
    if tagged := _TAGGED.search(message):
        code, field, text = tagged.groups()
        return _BY_CODE[code](text, field=field or "")
    if status is None or any(part in message for part in _NOT_SERVING):
        return NotReadyError(message)
    name = status.removeprefix("StatusCode.")
    if cls := _BY_STATUS.get(name):
        return cls(message)
    return (InvalidInputError if name.startswith("4") else InternalError)(message)
