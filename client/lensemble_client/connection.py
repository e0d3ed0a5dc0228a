"""One connection to a server: its address, its timeout, and calls of models."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from lensemble_client import contract
from lensemble_client.errors import InvalidInputError
from lensemble_client.items import Rows
from lensemble_client.transport import GrpcTransport, HttpTransport, Parameters, Transport

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0


class Connection:
    """Talks to one Lensemble server; a context manager.

    Args:
        url: `grpc://host:port` or `http://host:port`.
        timeout_s: Seconds that a call may take, unless the call says otherwise.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL's scheme is neither `grpc` nor `http`, or it names no port.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport if transport is not None else _transport(url)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float | None
    ) -> Rows:
        """Runs a model.

        Args:
            model: Which.
            rows: Its inputs.
            parameters: Of the request.
            timeout_s: Seconds for this call; None takes the connection's.

        Returns:
            Its outputs.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return self._transport.infer(model, rows, parameters, timeout_s)


def given(**values: str | int | None) -> Parameters:
    """Request parameters that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def json_text(value: object, field: str) -> str:
    """A value as JSON text.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"it cannot be written as JSON: {error}", field=field) from error


def _transport(url: str) -> Transport:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # not a number, or too large
        port = None
    if parts.scheme not in ("grpc", "http") or not port:
        raise InvalidInputError(
            f"cannot connect to {url!r}; expected grpc://host:port or http://host:port",
            field="url",
        )
    return (GrpcTransport if parts.scheme == "grpc" else HttpTransport)(parts.netloc)
