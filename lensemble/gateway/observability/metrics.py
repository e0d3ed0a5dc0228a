"""The gateway's own metrics, for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lensemble.gateway.observability.request_stats import RequestStats

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Attributes:
        in_flight: gauge of requests that are being served.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "lensemble_gateway", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered.", ["route", "status"], **options)
        self._seconds = Histogram(
            "request_seconds",
            "Seconds from the start of a request to the last byte of its response.",
            ["route"],
            buckets=_BUCKETS_S,
            **options,
        )
        self._refused = Counter(
            "refused", "Requests refused before any work was done.", ["reason"], **options
        )
        self._items = Counter("items", "Items in requests.", ["route"], **options)
        self._failed = Counter("items_failed", "Items that got an error.", ["route"], **options)
        self._tokens = Counter("tokens", "Tokens of prompts, pictures included.", **options)
        self.in_flight = Gauge("in_flight", "Requests that are being served.", **options)

    def count_request(self, stats: RequestStats, route: str, status: int) -> None:
        """Counts an answered request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(stats.elapsed_ms / 1000)
        if stats.items:
            self._items.labels(route).inc(stats.items)
            self._failed.labels(route).inc(stats.errors)
            self._tokens.inc(stats.tokens)

    def count_refusal(self, reason: str) -> None:
        """Counts a refused request.

        Args:
            reason: error code of the refusal, such as `rate_limited`.
        """
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry)
