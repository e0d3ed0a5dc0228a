"""Transports to a `FakeServer`, and clients that use them."""

from __future__ import annotations

from typing import Any

from lensemble_client.async_client import AsyncClient
from lensemble_client.client import Client
from lensemble_client.testing.server import FakeServer
from lensemble_client.transports.ownership import closed_error
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.items import Rows

_VERSION = "fake 0"


class _FakeConnection:
    """Base class of both transports, with the server and whether the transport is closed.

    Args:
        server: The server; None makes one.

    Attributes:
        server: The server.
    """

    def __init__(self, server: FakeServer | None = None) -> None:
        self.server = server or FakeServer()
        self._closed = False

    def _answer(self, model: contract.Model, rows: Rows, parameters: Parameters) -> Rows:
        if self._closed:
            raise closed_error()
        return self.server.answer(model, rows, parameters)


class FakeTransport(_FakeConnection):
    """A `Transport` to a server in memory."""

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        return self._answer(model, rows, parameters)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return self.server.has(model)

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return _VERSION

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True


class AsyncFakeTransport(_FakeConnection):
    """An `AsyncTransport` to a server in memory."""

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        return self._answer(model, rows, parameters)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return self.server.has(model)

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return _VERSION

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True


def fake_client(server: FakeServer | None = None, **options: Any) -> Client:
    """Returns a `Client` of a server in memory.

    Args:
        server: The server; None makes one.
        options: Further arguments of `Client`, such as `retry`.
    """
    return Client(transport=FakeTransport(server), **options)


def fake_async_client(server: FakeServer | None = None, **options: Any) -> AsyncClient:
    """Returns an `AsyncClient` of a server in memory.

    Args:
        server: The server; None makes one.
        options: Further arguments of `AsyncClient`, such as `retry`.
    """
    return AsyncClient(transport=AsyncFakeTransport(server), **options)
