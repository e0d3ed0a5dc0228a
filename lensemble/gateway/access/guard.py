"""The ASGI middleware that every request passes first: id, access checks, limits, access log.

A refused request costs little: it is refused before its body is read, or during the reading if the
body turns out to be too large or too slow. By then, no picture has been decoded, and nothing has
been sent to Triton. If a file of keys is set, every path needs a key, except those in `OPEN_PATHS`,
so a new route is not open by mistake.
"""

from __future__ import annotations

import logging
import re
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lensemble.gateway.access.body_limits import BodyLimits
from lensemble.gateway.access.caller_checks import CallerChecks
from lensemble.gateway.access.paths import normalize_path
from lensemble.gateway.errors import error_headers, error_object
from lensemble.gateway.observability.metrics import Metrics
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.observability.tracing import Tracer
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import request_headers
from lensemble_contract.errors import CancelledError, InternalError, LensembleError

logger = logging.getLogger(__name__)

# Paths that need no key and have no limits.
OPEN_PATHS = ("/health", "/docs", "/openapi.json")

# A request id that a caller sends is used only if it cannot forge a line of the log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Gives each request an id, checks and limits it, passes it on, and logs and counts it.

    Args:
        app: the application.
        settings: settings of the gateway.
        metrics: the gateway's metrics.
        tracer: makes the OpenTelemetry spans.
        limits: limits on open requests.

    Raises:
        InvalidInputError: The file of keys is unusable.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        metrics: Metrics,
        tracer: Tracer,
        limits: BodyLimits,
    ) -> None:
        self._app, self._metrics, self._tracer = app, metrics, tracer
        self._access_log = settings.access_log
        self._checks = CallerChecks(settings)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one HTTP request, or one connection of another type that ASGI defines."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        stats = RequestStats(sent_id if _REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex)
        scope.setdefault("state", {})["stats"] = stats
        status = 0  # until a response begins

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", stats.id.encode()),
                    (b"server-timing", stats.server_timing().encode()),
                ]
            await send(message)

        # The client reads this context variable, and sends the id to Triton, which logs it.
        request_headers.request_id.set(stats.id)
        with self._tracer.span(scope["method"], headers, stats) as end_span:
            try:
                await self._serve(scope, headers, receive, send_with_headers, stats)
            except Exception:
                logger.exception("request %s failed", stats.id)
                if not status:
                    internal = InternalError("the gateway failed; its log says why")
                    await _send_error(internal, scope, send_with_headers)
            finally:
                # If no response was begun, the caller has closed the connection.
                route, status = _route_of(scope), status or CancelledError.http_status
                end_span(route, status)
                self._metrics.count_request(stats, route, status)
                if self._access_log:
                    stats.write_access_log(scope["method"], route, status)

    async def _serve(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, stats: RequestStats
    ) -> None:
        in_flight: AbstractContextManager[None] = nullcontext()
        try:
            normalize_path(scope)
            if scope["path"] not in OPEN_PATHS:
                self._checks.check(scope, headers, stats)
                in_flight = self._limits.admit(headers, stats)
                receive = self._limits.limit_body(receive, stats)
        except LensembleError as error:
            self._metrics.count_refusal(error.code)
            await _send_error(error, scope, send)
            return
        with in_flight:
            await self._app(scope, receive, send)


def _route_of(scope: Scope) -> str:
    """The route's path with placeholders, because ids of items must not go into log and metrics."""
    if (path := getattr(scope.get("route"), "path", None)) is not None:
        return str(path)
    return str(scope["path"]) if scope["path"] in OPEN_PATHS else "none"


async def _send_error(error: LensembleError, scope: Scope, send: Send) -> None:
    response = JSONResponse({"error": error_object(error)}, error.http_status, error_headers(error))

    async def receive_nothing() -> Any:
        return {"type": "http.request"}

    await response(scope, receive_nothing, send)
