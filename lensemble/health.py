"""HTTP routes that say how a supervised server is; Triton's own stay green when a model has died.

- `GET /live`: 200 for as long as the supervisor runs.
- `GET /ready`: 200 if the server serves, 503 with the reason if not.
- `GET /metrics`: the supervisor's own, for Prometheus.
"""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from lensemble.server import LOOPBACK
from lensemble.supervisor import State
from lensemble_client.errors import InvalidInputError

_TIMEOUT_S = 5


class HealthServer:
    """Answers on a port of its own; a context manager.

    Args:
        state: Of the supervisor.
        port: 0 takes a free one.
        address: Where to listen.

    Attributes:
        url: Where it listens.

    Raises:
        InvalidInputError: It cannot listen there.
    """

    def __init__(self, state: State, port: int = 0, address: str = LOOPBACK) -> None:
        class Handler(_Handler):
            pass

        Handler.state = state
        try:
            self._server = ThreadingHTTPServer((address, port), Handler)
        except (OSError, OverflowError) as error:
            raise InvalidInputError(
                f"cannot listen on {address}:{port} ({error}); stop what is there, or take "
                "another port (0 finds a free one)",
                field="health_port",
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="health")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: State
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """Routes by path."""
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
            self._answer(HTTPStatus.NOT_FOUND, {"detail": "there are /live, /ready and /metrics"})

    def _answer(self, status: HTTPStatus, content: dict[str, object]) -> None:
        self._send(status, "application/json", json.dumps(content) + "\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: probes come every few seconds."""


def metrics(state: State) -> str:
    """In Prometheus' text format."""
    lines = [
        "# HELP lensemble_up Whether the server serves.",
        "# TYPE lensemble_up gauge",
        f"lensemble_up {int(state.ready)}",
        "# HELP lensemble_restarts_total Starts after a fault, by what was wrong.",
        "# TYPE lensemble_restarts_total counter",
        *(
            f'lensemble_restarts_total{{reason="{reason}"}} {count}'
            for reason, count in sorted(state.restarts.items())
        ),
        "# HELP lensemble_recovery_seconds From finding the last fault until it served again.",
        "# TYPE lensemble_recovery_seconds gauge",
        f"lensemble_recovery_seconds {state.recovery_s:.3f}",
    ]
    return "\n".join(lines) + "\n"
