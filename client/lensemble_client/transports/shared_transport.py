"""Transports whose large inputs go through shared memory, around any other."""

from __future__ import annotations

import asyncio

from lensemble_client.transports.async_transports import AsyncTransport
from lensemble_client.transports.registration import GrpcRegistrar, HttpRegistrar
from lensemble_client.transports.shared_memory import Pool
from lensemble_client.transports.sync_transports import Transport
from lensemble_client.transports.wire import Parameters, Sent
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows


class SharedMemoryTransport:
    """Carries calls as another transport does, but for large inputs.

    Args:
        inner: Carries the rest; closed with this one.
        pool: Of the memory; likewise.
    """

    def __init__(self, inner: Transport, pool: Pool) -> None:
        self._inner, self._pool = inner, pool

    def infer(
        self, model: contract.Model, rows: Sent, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        with self._pool.lent(model, rows) as sent:
            try:
                return self._inner.infer(model, sent, parameters, timeout_s)
            except LensembleError as error:
                if not self._pool.lost(sent, error):
                    raise
        return self._inner.infer(model, rows, parameters, timeout_s)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return self._inner.ready(model, timeout_s)

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return self._inner.version(timeout_s)

    def close(self) -> None:
        """See `Transport.close`."""
        self._inner.close()
        self._pool.close()


class AsyncSharedMemoryTransport:
    """The same for asyncio.

    Args:
        inner: Carries the rest; closed with this one.
        pool: Of the memory; likewise.
    """

    def __init__(self, inner: AsyncTransport, pool: Pool) -> None:
        self._inner, self._pool = inner, pool

    async def infer(
        self, model: contract.Model, rows: Sent, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        if not self._pool.opened(model, rows):
            await asyncio.to_thread(self._pool.open)
        with self._pool.lent(model, rows) as sent:
            try:
                return await self._inner.infer(model, sent, parameters, timeout_s)
            except LensembleError as error:
                if not self._pool.lost(sent, error):
                    raise
        return await self._inner.infer(model, rows, parameters, timeout_s)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return await self._inner.ready(model, timeout_s)

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return await self._inner.version(timeout_s)

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        await self._inner.close()
        await asyncio.to_thread(self._pool.close)


def pool(scheme: str, address: str) -> Pool:
    """A pool for the server at an address.

    Args:
        scheme: `grpc` or `http`.
        address: `host:port`.
    """
    return Pool((GrpcRegistrar if scheme == "grpc" else HttpRegistrar)(address))
