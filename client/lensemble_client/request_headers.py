"""What goes with a call beside its tensors: whose it is, and where in a trace it stands."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache

request_id: ContextVar[str] = ContextVar("lensemble_request_id", default="")
"""Of the calls that are made from here on: it stands in the server's log if they fail there. Empty
leaves it out."""


def headers() -> dict[str, str]:
    """W3C trace context of the current span, which the server continues.

    Empty without a span, or if OpenTelemetry is not installed.
    """
    found: dict[str, str] = {}
    if (inject := _injector()) is not None:
        inject(found)
    return found


@cache
def _injector() -> Callable[[dict[str, str]], None] | None:
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return None
    return inject
