"""Starts and stops the gateway as a process of its own, beside a server.

with GatewayServer(GatewaySettings(triton="grpc://127.0.0.1:8001")) as gateway:
httpx.post(f"{gateway.url}/v1/embeddings", json={"input": "hello"})
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import IO, Self

from lensemble.gateway.settings import PREFIX, GatewaySettings
from lensemble.operations.tritonserver import free_port
from lensemble_contract.errors import DeadlineExceededError, InternalError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 25.0
"""Seconds that requests under way have to finish before it is killed."""
_POLL_S = 0.05


class GatewayServer:
    """One process of the gateway; a context manager.

    Args:
        settings: What it needs to know; of port 0, a free one is taken.
        log: Where its log goes; None is standard error.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, settings: GatewaySettings, log: IO[bytes] | None = None) -> None:
        port = settings.port or free_port()
        self._settings = settings.model_copy(update={"port": port})
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http{'' if settings.tls is None else 's'}://{host}:{port}"
        self._place = (settings.host, port)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id; None if it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Starts it and waits until it answers, whether or not Triton does.

        Raises:
            InternalError: It ended at once; its log says why.
            DeadlineExceededError: It did not answer in time; it was stopped again.
        """
        rest = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lensemble.gateway"],
            env={**rest, **self._settings.to_env()},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops it
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops it; requests under way may finish. Safe to call again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if (status := self.poll()) is not None:
                raise InternalError(f"the gateway ended with status {status} before it was ready")
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the gateway did not answer within {START_TIMEOUT_S:g} s"
                )
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        # uvicorn listens once the application has started; with mutual TLS it may say no more.
        try:
            socket.create_connection(self._place, timeout=5).close()
        except OSError:
            return False
        return True
