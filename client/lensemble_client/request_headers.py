"""The request id and the trace context that clients send with every request."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache

# Id of all requests that are sent in the current context. If a request fails in the server, the
# server's log contains the id. An empty id is not sent.
request_id: ContextVar[str] = ContextVar("lensemble_request_id", default="")


def headers() -> dict[str, str]:
    """Returns the W3C trace context of the current span, so that the server continues the trace.

    The result is empty if there is no span, or if OpenTelemetry is not installed.
    """
    context: dict[str, str] = {}
    if (inject := _injector()) is not None:
        inject(context)
    return context


@cache
def _injector() -> Callable[[dict[str, str]], None] | None:
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return None
    return inject
