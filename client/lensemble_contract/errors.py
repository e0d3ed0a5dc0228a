"""Everything that Lensemble raises, in one tree.

    LensembleError
    ├── InvalidInputError       400  INVALID_ARGUMENT    the input is at fault: its field, the limit
    ├── ReadOnlyError           403  PERMISSION_DENIED   writes are off
    ├── NotFoundError           404  NOT_FOUND           no such model, or no such item
    ├── OverloadedError         429  RESOURCE_EXHAUSTED  too much work; try again later
    ├── CancelledError          499  CANCELLED           the caller gave up
    ├── InternalError           500  INTERNAL            a fault of the service
    ├── StorageError            507  DATA_LOSS           the index's files: full disk, damage
    ├── NotReadyError           503  UNAVAILABLE         not started yet, gone, or no index loaded
    └── DeadlineExceededError   504  DEADLINE_EXCEEDED   the answer took longer than the timeout

An error crosses the wire as `[code] field: message`, so that what the server raised is what the
client raises, whichever protocol carried it and whatever an ensemble wrote in front of it.
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
    """Base of every error of this package.

    Attributes:
        code: Word for the cause, also on the wire.
        grpc_status: Name of the gRPC status code.
        http_status: HTTP status code.
        message: What was wrong, what was expected, what to do.
        field: The input at fault, such as `image[1]`; empty if none is.
        reason: Word for what was wrong, of a few that metrics count by; not on the wire.
    """

    code = "error"
    grpc_status = "UNKNOWN"
    http_status = 500

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field, self.reason = field, reason

    def to_wire(self) -> str:
        """Text that `from_wire` turns back into this error."""
        return f"[{self.code}] {self}"


class InvalidInputError(LensembleError):
    """The input is at fault; the same request fails again."""

    code, grpc_status, http_status = "invalid_input", "INVALID_ARGUMENT", 400


class ReadOnlyError(LensembleError):
    """The server takes no writes."""

    code, grpc_status, http_status = "read_only", "PERMISSION_DENIED", 403


class NotFoundError(LensembleError):
    """The server has no such model, or the index no such item."""

    code, grpc_status, http_status = "not_found", "NOT_FOUND", 404


class OverloadedError(LensembleError):
    """More work than the service takes; the request was refused before work was done on it."""

    code, grpc_status, http_status = "overloaded", "RESOURCE_EXHAUSTED", 429


class CancelledError(LensembleError):
    """The caller gave the request up."""

    code, grpc_status, http_status = "cancelled", "CANCELLED", 499


class InternalError(LensembleError):
    """A fault of the service, not of the input."""

    code, grpc_status, http_status = "internal", "INTERNAL", 500


class StorageError(LensembleError):
    """The index's files cannot be written or read: the disk is full, a file damaged or locked."""

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

# Statuses that Triton or a proxy sets itself, without a code of ours in the text.
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
_DEAD = "is not healthy"
"""Triton's word, with the status INTERNAL, for a model whose process has died."""
_TAGGED = re.compile(rf"\[({'|'.join(_BY_CODE)})\] (?:([a-z_]+(?:\[\d+\])?): )?(.*)", re.DOTALL)


def from_wire(status: str | None, message: str) -> LensembleError:
    """Turns a failed call's status and text into the error that it stands for.

    Args:
        status: gRPC status name, with or without `StatusCode.`, or HTTP status as text; None if the
            call did not reach a server.
        message: The text that came with it.

    Returns:
        An instance of one class of the tree, never the base itself.
    """
    if tagged := _TAGGED.search(message):
        code, field, text = tagged.groups()
        return _BY_CODE[code](text, field=field or "")
    if status is None or _DEAD in message:
        return NotReadyError(message)
    name = status.removeprefix("StatusCode.")
    if cls := _BY_STATUS.get(name):
        return cls(message)
    return (InvalidInputError if name.startswith("4") else InternalError)(message)
