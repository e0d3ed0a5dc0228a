"""Limits on requests in flight: their number, their bodies' size, and the time to send a body.

One key may take only a share of the requests and of the bytes, so that a caller who sends many slow
or large bodies does not keep the callers with other keys waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from lensemble.gateway.errors import RETRY_S, RefusedError, retry_after
from lensemble.gateway.observability.metrics import Metrics
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.settings import GatewaySettings

# Seconds without any progress after which a full gateway counts as stuck.
STUCK_S = 10.0


class BodyLimits:
    """Counts requests in flight and the bytes of their bodies, and refuses what exceeds a limit.

    Args:
        settings: settings of the gateway.
        metrics: the gateway's metrics.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._in_flight = 0
        self._held_bytes = 0  # of the bodies of all requests in flight
        # The same for each key. Requests without a key are not counted here.
        self._in_flight_of: Counter[str] = Counter()
        self._held_bytes_of: Counter[str] = Counter()
        self._max_in_flight_of = max(1, int(settings.in_flight * settings.key_share))
        self._max_held_bytes_of = int(settings.held_bytes * settings.key_share)
        self._last_change = clock()  # when a request was last admitted or ended

    @property
    def is_stuck(self) -> bool:
        """Whether new requests are refused, and none in flight has ended for `STUCK_S` seconds."""
        is_full = self._in_flight >= self._settings.in_flight
        return is_full and self._clock() - self._last_change > STUCK_S

    def admit(self, headers: Headers, stats: RequestStats) -> AbstractContextManager[None]:
        """Refuses a request if its body is too large, or if too many others are in flight.

        Args:
            headers: headers of the request.
            stats: statistics of the request, which count the bytes of its body.

        Returns:
            A context manager that counts the request as in flight. Enter it before the next
            `await`, so that no other request is admitted in between.

        Raises:
            RefusedError: The `Content-Length` is above the limit, or too many requests are in
                flight, of all callers or with the same key.
        """
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.body_bytes:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", self._too_large_message()
            )
        if self._in_flight >= self._settings.in_flight:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                f"{self._in_flight} requests are being served, which is the limit; try again later",
                retry_after(RETRY_S),
            )
        if stats.key and self._in_flight_of[stats.key] >= self._max_in_flight_of:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                f"{self._max_in_flight_of} requests with the key {stats.key!r} are being served, "
                "which is the limit of one key; try again later",
                retry_after(RETRY_S),
            )
        return self._counted(stats)

    def limit_body(self, receive: Receive, stats: RequestStats) -> Receive:
        """Wraps ASGI's `receive`: refuses a body that is too large or arrives too slowly.

        The returned function raises HTTPException, which becomes the response.
        """
        deadline = time.monotonic() + self._settings.body_s
        complete = False

        async def receive_within_limits() -> Message:
            nonlocal complete
            if complete:  # only the end of the connection can follow; it has no deadline
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                self._metrics.count_refusal("body_too_slow")
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not arrive within {self._settings.body_s:g} s",
                ) from None
            self._count_bytes(len(message.get("body", b"")), stats)
            complete = not message.get("more_body", False)
            return message

        return receive_within_limits

    @contextmanager
    def _counted(self, stats: RequestStats) -> Iterator[None]:
        self._count_requests(1, stats)
        try:
            yield
        finally:
            self._held_bytes -= stats.body_bytes
            self._held_bytes_of[stats.key] -= stats.body_bytes
            self._count_requests(-1, stats)

    def _count_requests(self, change: int, stats: RequestStats) -> None:
        self._in_flight += change
        self._in_flight_of[stats.key] += change
        if not self._in_flight_of[stats.key]:  # keys are removed from their file, too
            del self._in_flight_of[stats.key], self._held_bytes_of[stats.key]
        self._last_change = self._clock()
        self._metrics.in_flight.set(self._in_flight)

    def _count_bytes(self, size: int, stats: RequestStats) -> None:
        stats.body_bytes += size
        self._held_bytes += size
        self._held_bytes_of[stats.key] += size
        if stats.body_bytes > self._settings.body_bytes:
            self._metrics.count_refusal("body_too_large")
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large_message())
        if self._held_bytes > self._settings.held_bytes:
            self._metrics.count_refusal("overloaded")
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the bodies of all requests in flight together have more than "
                f"{self._settings.held_bytes} bytes; try again later",
                retry_after(RETRY_S),
            )
        if stats.key and self._held_bytes_of[stats.key] > self._max_held_bytes_of:
            self._metrics.count_refusal("overloaded")
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the bodies of all requests in flight with the key {stats.key!r} together have "
                f"more than {self._max_held_bytes_of} bytes; try again later",
                retry_after(RETRY_S),
            )

    def _too_large_message(self) -> str:
        return f"the body has more than {self._settings.body_bytes} bytes; send fewer items"
