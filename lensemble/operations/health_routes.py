"""HTTP routes for the health of a supervised server.

Triton's own health routes still answer 200 after a model process has died.

- `GET /live`: 200 while the supervisor runs.
- `GET /ready`: 200 if the server serves; otherwise 503, with the reason.
- `GET /metrics`: the supervisor's metrics, for Prometheus.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lensemble.operations.liveness import REASONS
from lensemble.operations.ports import LOOPBACK, free_ports
from lensemble.operations.supervisor import FAILED_START, SupervisorState

_TIMEOUT_S = 5


class HealthServer:
    """Serves the routes on a port of its own; a context manager.

    Args:
        state: the state of the supervised server.
        port: TCP port to listen on; 0 takes a free one.
        address: address to listen on.

    Attributes:
        url: URL of the routes, without a path.

    Raises:
        InvalidInputError: The port is taken, or the address cannot be used.
    """

    def __init__(self, state: SupervisorState, port: int = 0, address: str = LOOPBACK) -> None:
        (port,) = free_ports([port], address)
        self._server = _Server((address, port), partial(_Handler, state))
        self.url = f"http://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="health")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Writes a traceback, unless the caller hung up: probes do so when they time out."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S

    def __init__(self, state: SupervisorState, *connection: Any) -> None:
        self.state = state
        super().__init__(*connection)  # answers the request

    def do_GET(self) -> None:
        """Answers a GET request."""
        state = self.state
        if self.path == "/live":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif self.path == "/ready":
            self._answer(
                HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE,
                {
                    "status": "ok" if state.ready else "unavailable",
                    "reason": state.reason,
                    "since": state.since,
                    "restarts": state.restarts,
                    "recovery_s": round(state.recovery_s, 3),
                },
            )
        elif self.path == "/metrics":
            self._send(HTTPStatus.OK, "text/plain; version=0.0.4", metrics(state))
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"detail": "expected /live, /ready or /metrics"})

    def _answer(self, status: HTTPStatus, content: dict[str, object]) -> None:
        self._send(status, "application/json", json.dumps(content) + "\n")

    def _send(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: probes come every few seconds."""


class _Metrics:
    """Collects the state for `prometheus_client`."""

    def __init__(self, state: SupervisorState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        state = self._state
        yield GaugeMetricFamily("lensemble_up", "Whether the server serves.", int(state.ready))
        restarts = CounterMetricFamily(
            "lensemble_restarts", "Restarts after a fault, by reason.", labels=["reason"]
        )
        # All reasons exist from the start: a counter that first appears with the value 1 shows no
        # increase.
        for reason in (*REASONS, FAILED_START):
            restarts.add_metric([reason], state.restarts.get(reason, 0))
        yield restarts
        yield GaugeMetricFamily(
            "lensemble_recovery_seconds",
            "Seconds from finding the last fault until the server served again.",
            state.recovery_s,
        )


def metrics(state: SupervisorState) -> str:
    """The state in Prometheus's text format."""
    return generate_latest(_Metrics(state)).decode()
