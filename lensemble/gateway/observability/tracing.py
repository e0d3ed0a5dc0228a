"""OpenTelemetry's spans of the gateway's requests; Triton continues them with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lensemble.gateway.observability.telemetry import Trace
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import InvalidInputError

SERVICE = "lensemble-gateway"


class Tracer:
    """Makes a span of every request, and sends them in the background.

    Args:
        settings: Of the gateway; without `traces` it does nothing.

    Raises:
        InvalidInputError: OpenTelemetry is not installed.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._provider: Any = None
        if settings.traces is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise InvalidInputError(
                f"{settings.traces!r}, and OpenTelemetry is not installed ({error}); "
                "pip install 'lensemble[tracing]'",
                field="LENSEMBLE_GATEWAY_TRACES",
            ) from error
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(1 / settings.trace_every)),
            resource=Resource.create({"service.name": SERVICE}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces)))
        self._tracer = self._provider.get_tracer(SERVICE)

    @contextmanager
    def span(self, method: str, headers: Mapping[str, str], trace: Trace) -> Iterator[Any]:
        """The span of one request, a part of its caller's trace if it says so.

        Args:
            method: Of HTTP.
            headers: Of the request.
            trace: What is known of it; goes into the span at its end.

        Yields:
            A function that takes route and status; nothing of what was sent is in a span.
        """
        if self._provider is None:
            yield _nothing
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        # Its own name for now: the route is known at the end.
        with self._tracer.start_as_current_span(
            method, context=extract(headers), kind=SpanKind.SERVER
        ) as span:

            def end(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {
                        "http.request.method": method,
                        "http.route": route,
                        "http.response.status_code": status,
                        "lensemble.request_id": trace.id,
                        "lensemble.items": trace.items,
                        "lensemble.tokens": trace.tokens,
                        "lensemble.errors": trace.errors,
                        **{f"lensemble.{name}_ms": ms for name, ms in trace.times_ms.items()},
                    }
                )
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield end

    def close(self) -> None:
        """Sends what has not been sent."""
        if self._provider is not None:
            self._provider.shutdown()


def _nothing(route: str, status: int) -> None:
    """Ends no span."""
