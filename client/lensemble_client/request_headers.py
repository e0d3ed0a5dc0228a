"""Request id and trace context that clients send with every request."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache

# Id of the requests that the current context sends. The server's log names it if they fail there.
# An empty id is not sent.
request_id: ContextVar[str] = ContextVar("lensemble_request_id", default="")


def headers() -> dict[str, str]:
    """Returns the W3C trace context of the current span, so that the server continues the trace.

    Empty if there is no span, or if OpenTelemetry is not installed.
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
