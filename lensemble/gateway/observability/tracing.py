"""OpenTelemetry spans of the gateway's requests. Triton continues them with spans of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import InvalidInputError

SERVICE = "lensemble-gateway"

# Ends a span; takes the route and the HTTP status.
EndSpan: TypeAlias = Callable[[str, int], None]


class Tracer:
    """Makes a span for every request, and sends the spans in the background.

    Args:
        settings: settings of the gateway; without `traces` no spans are made.

    Raises:
        InvalidInputError: Spans are to be sent, and OpenTelemetry is not installed.
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
                f"{settings.traces!r} needs OpenTelemetry, which is not installed ({error}); "
                "run `pip install '.[tracing]'` in the checkout",
                field="LENSEMBLE_GATEWAY_TRACES",
            ) from error
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(1 / settings.trace_every)),
            resource=Resource.create({"service.name": SERVICE}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces)))
        self._tracer = self._provider.get_tracer(SERVICE)

    @contextmanager
    def span(
        self, method: str, headers: Mapping[str, str], stats: RequestStats
    ) -> Iterator[EndSpan]:
        """The span of one request; it belongs to the caller's trace if there is a `traceparent`.

        Args:
            method: HTTP method.
            headers: headers of the request.
            stats: statistics of the request, which become attributes at the end of the span.

        Yields:
            A function that ends the span. The span contains no content of the request.
        """
        if self._provider is None:
            yield _ignore
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        # The span starts with the method as its name, because the route is known only at the end.
        with self._tracer.start_as_current_span(
            method, context=extract(headers), kind=SpanKind.SERVER
        ) as span:

            def end_span(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {
                        "http.request.method": method,
                        "http.route": route,
                        "http.response.status_code": status,
                        "lensemble.request_id": stats.id,
                        "lensemble.items": stats.items,
                        "lensemble.tokens": stats.tokens,
                        "lensemble.errors": stats.errors,
                        **{f"lensemble.{name}_ms": ms for name, ms in stats.times_ms.items()},
                    }
                )
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield end_span

    def close(self) -> None:
        """Sends the spans that are still waiting."""
        if self._provider is not None:
            self._provider.shutdown()


def _ignore(route: str, status: int) -> None:
    """Does nothing; takes the place of `end_span` if no spans are made."""
