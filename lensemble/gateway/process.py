"""Starts and stops the gateway as a child process.

Example, with a server that `lensemble up` has started:

    import json
    import urllib.request

    from lensemble.gateway.process import GatewayServer
    from lensemble.gateway.settings import GatewaySettings

    with GatewayServer(GatewaySettings(triton="grpc://127.0.0.1:8001", port=0)) as gateway:
        request = urllib.request.Request(
            f"{gateway.url}/v1/embeddings",
            data=json.dumps({"input": "hello"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            print(json.load(response)["data"][0]["embedding"][:3])
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from lensemble.gateway.settings import PREFIX, GatewaySettings
from lensemble.operations import orphan_guard
from lensemble.operations.ports import free_port
from lensemble_contract.direct_connections import with_direct_hosts
from lensemble_contract.errors import DeadlineExceededError, InternalError

START_TIMEOUT_S = 30.0
# Time limit for requests in flight to finish after a stop; then the process is killed.
STOP_TIMEOUT_S = 25.0
_POLL_S = 0.05


class GatewayServer:
    """One child process that runs the gateway; a context manager.

    Args:
        settings: settings of the gateway; port 0 takes a free port.
        log: file for the gateway's log; None is standard error.
        own_hosts: addresses of this machine, besides loopback, that are reached without a proxy.

    Attributes:
        url: base URL of the gateway, such as `http://127.0.0.1:8080`.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        log: IO[bytes] | None = None,
        own_hosts: Sequence[str] = (),
    ) -> None:
        port = settings.port or free_port()
        self._settings = settings.model_copy(update={"port": port})
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http{'' if settings.tls is None else 's'}://{host}:{port}"
        self._address = (settings.host, port)
        self._log, self._own_hosts = log, own_hosts
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
        """Process id; None before `start` and after `stop`."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Starts the process and waits until it accepts connections. Triton may still be down.

        Raises:
            InternalError: The process ended early; its log says why.
            DeadlineExceededError: It accepted no connection within 30 s, so it was stopped.
        """
        environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lensemble.gateway"],
            env=with_direct_hosts({**environment, **self._settings.to_env()}, self._own_hosts),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches only the parent, which then stops the gateway
        )
        orphan_guard.watch(self._process.pid)
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops the process when its requests in flight are answered, or after 25 s.

        A second call does nothing.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        orphan_guard.forget(process.pid)

    def poll(self) -> int | None:
        """Exit status of the process; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if (status := self.poll()) is not None:
                raise InternalError(f"the gateway ended with status {status} before it was ready")
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the gateway accepted no connection within {START_TIMEOUT_S:g} s"
                )
            time.sleep(_POLL_S)

    def _listens(self) -> bool:
        # A connection is enough, because uvicorn listens only after the application has started. A
        # request would be refused under mutual TLS, because it has no certificate.
        try:
            socket.create_connection(self._address, timeout=5).close()
        except OSError:
            return False
        return True
