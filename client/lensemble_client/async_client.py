"""The client for asyncio."""

from __future__ import annotations

from lensemble_client._async.health import AsyncHealthCalls
from lensemble_client._async.search import AsyncSearchCalls
from lensemble_client._async.store import AsyncStoreCalls

__all__ = ["AsyncClient"]


class AsyncClient(AsyncSearchCalls, AsyncStoreCalls, AsyncHealthCalls):
    """Talks to one Lensemble server, on one event loop; an asynchronous context manager.

    It has the calls of `Client`, to be awaited. Every call may be cancelled. The server is told
    that a call was cancelled, and drops its work unless it has begun.

    Args:
        url: As for `Client`.
        timeout_s: As for `Client`.
        retry: As for `Client`.
        tls: As for `Client`.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: As for `Client`.
    """
