"""What every request passes before its body is read: an id, a key, limits; and the log after it.

A refusal costs next to nothing: it comes before a byte of the body is read, a picture decoded or a
message sent to Triton. What is not listed as open needs a key, so a forgotten route is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lensemble.gateway.access.keys import METRICS, READ, WRITE, KeyFile
from lensemble.gateway.access.rate_limits import Rates
from lensemble.gateway.errors import RETRY_S, RefusedError, after, said
from lensemble.gateway.observability.telemetry import Metrics, Trace
from lensemble.gateway.observability.tracing import Tracer
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import request_headers
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

OPEN = ("/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
"""Paths that need no key and are under no limit."""
WRITING = "/v1/items"
"""Paths from here on change the index, unless they only read."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Stands in front of the application.

    Args:
        app: The application.
        settings: Of the gateway.
        metrics: To count in.
        tracer: Makes spans.

    Raises:
        InvalidInputError: The file of keys cannot be used.
    """

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, metrics: Metrics, tracer: Tracer
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._tracer = tracer
        self._keys = KeyFile(settings.keys) if settings.keys is not None else None
        self._rates = Rates(settings.per_minute)
        self._in_flight = 0
        self._held = 0  # bytes of their bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        # Another's words go into our log only if they cannot break out of it.
        trace = Trace(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        scope.setdefault("state", {})["trace"] = trace
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", trace.id.encode()),
                    (b"server-timing", trace.server_timing().encode()),
                ]
            await send(message)

        request_headers.request_id.set(trace.id)  # of this task: Triton's log has it, too
        with self._tracer.span(scope["method"], headers, trace) as end:
            try:
                await self._pass(scope, headers, receive, tell, trace)
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("request %s failed", trace.id)
                if not status:
                    fault = InternalError("the gateway failed; its log says why")
                    await _answer(fault, scope, tell)
            finally:
                route = getattr(scope.get("route"), "path", None) or (
                    scope["path"] if scope["path"] in OPEN else "none"
                )
                end(route, status or 499)
                self._metrics.count(trace, route, status or 499)
                if self._settings.access_log:
                    trace.log(scope["method"], route, status or 499)

    async def _pass(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, trace: Trace
    ) -> None:
        if scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope, headers, trace)
        except LensembleError as error:
            self._metrics.refuse(error.code)
            await _answer(error, scope, send)
            return
        # From here on no other request can come between the look and the count.
        if self._in_flight >= self._settings.in_flight:
            self._metrics.refuse("overloaded")
            await _answer(_full(self._settings.in_flight), scope, send)
            return
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            await self._app(scope, self._counted(receive, trace), send)
        finally:
            self._in_flight -= 1
            self._held -= trace.body_bytes
            self._metrics.in_flight.set(self._in_flight)

    async def _check(self, scope: Scope, headers: Headers, trace: Trace) -> None:
        """Key, scope, rate, and the length that the body is said to have.

        Raises:
            RefusedError: One of them does not do.
        """
        who = (scope.get("client") or ("",))[0]
        if self._keys is not None:
            scheme, _, sent = headers.get("authorization", "").partition(" ")
            key = self._keys.find(sent.strip()) if scheme.lower() == "bearer" else None
            if key is None:
                raise RefusedError(
                    HTTPStatus.UNAUTHORIZED,
                    "invalid_api_key",
                    "no key, or one that is not known; send `Authorization: Bearer KEY`",
                    {"WWW-Authenticate": "Bearer"},
                )
            trace.key = who = key.name
            if not key.may(needed := scope_of(scope["method"], scope["path"])):
                raise RefusedError(
                    HTTPStatus.FORBIDDEN,
                    "insufficient_scope",
                    f"the key {key.name!r} may {key.scope}, this needs {needed}",
                )
        if wait_s := self._rates.wait_s(who):
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limited",
                f"more than {self._settings.per_minute} requests in a minute; try again later",
                after(wait_s),
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.body_bytes:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", self._too_large()
            )

    def _counted(self, receive: Receive, trace: Trace) -> Receive:
        """The body, as long as it is within its limits of size and time."""
        end = time.monotonic() + self._settings.body_s
        whole = False

        async def read() -> Message:
            nonlocal whole
            if whole:  # only the end of the connection is still to come
                return await receive()
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                self._metrics.refuse("body_too_slow")
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not come within {self._settings.body_s:g} s",
                ) from None
            size = len(message.get("body", b""))
            trace.body_bytes += size
            self._held += size
            if trace.body_bytes > self._settings.body_bytes:
                self._metrics.refuse("body_too_large")
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())
            if self._held > self._settings.held_bytes:
                self._metrics.refuse("overloaded")
                raise HTTPException(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "the requests under way are too large together; try again later",
                    after(RETRY_S),
                )
            whole = not message.get("more_body", False)
            return message

        return read

    def _too_large(self) -> str:
        return f"the body has more than {self._settings.body_bytes} bytes; send fewer items"


def scope_of(method: str, path: str) -> str:
    """What a key must be allowed to."""
    if path == "/metrics":
        return METRICS
    writes = path.startswith(WRITING) and method not in ("GET", "HEAD", "OPTIONS")
    return WRITE if writes else READ


def _full(most: int) -> RefusedError:
    return RefusedError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "overloaded",
        f"{most} requests are under way, and no more are taken; try again later",
        after(RETRY_S),
    )


async def _answer(error: LensembleError, scope: Scope, send: Send) -> None:
    headers: dict[str, str] = getattr(error, "headers", {})
    answer = JSONResponse({"error": said(error)}, error.http_status, headers)

    async def nothing() -> Any:
        return {"type": "http.request"}

    await answer(scope, nothing, send)
