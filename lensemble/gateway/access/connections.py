"""Limits on connections that are not serving a request: half-sent heads, idle ones, unread bodies.

uvicorn has a time limit only for a connection that is silent after a response. A caller without a
key could keep any number of others open: by sending nothing, half of a head, or the rest of a body
that was refused.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lensemble.gateway.settings import GatewaySettings

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# Seconds after which the kernel ends a connection whose peer takes nothing of a response.
_UNREAD_S = 30


class LimitedConnection(HttpToolsProtocol):
    """One connection of uvicorn, with limits; use a subclass that `limited_connections` makes.

    A connection is idle unless a request is in progress whose head has arrived.

    Attributes:
        head_s: seconds that an idle connection has for the next head, from its first byte. A new
            connection has as many from its start, and so has the rest of a body after the response.
        max_idle: largest number of idle connections; more make the oldest ones close.
        idle: idle connections of this process; the one that has been idle longest is first.
    """

    head_s: float
    max_idle: int
    idle: dict[LimitedConnection, None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        unread_ms = _UNREAD_S * 1000
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms
        )
        self._become_idle()
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._become_busy()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self in self.idle and self._deadline is None:
            self._start_deadline()  # a head has begun, and is not complete

    def on_message_begin(self) -> None:
        """Called by the parser at the start of a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of a head."""
        self._in_head = False
        self._become_busy()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn after the last byte of a response."""
        super().on_response_complete()
        # If requests were sent ahead, `cycle` is the last one of them.
        if self.cycle.response_complete and not self.transport.is_closing():
            self._become_idle()
            if self.cycle.more_body or self._in_head:
                self._start_deadline()

    def _become_idle(self) -> None:
        self.idle[self] = None
        while len(self.idle) > self.max_idle:
            oldest = next(iter(self.idle))
            oldest._become_busy()
            oldest.transport.close()

    def _become_busy(self) -> None:
        self.idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_s, self._close_late)

    def _close_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.more_body:  # no response was sent to this head
            self.transport.write(_TOO_SLOW)
        self.transport.close()


def limited_connections(settings: GatewaySettings) -> type[LimitedConnection]:
    """The class of connections for uvicorn's option `http`.

    Args:
        settings: settings of the gateway.
    """
    limits = {"head_s": settings.head_s, "max_idle": settings.connections, "idle": {}}
    return type("LimitedConnection", (LimitedConnection,), limits)
