"""Starts and stops a real tritonserver on this machine.

The program is the one that is given, the one on PATH (as in NVIDIA's images), or the bundled one,
which is in the `nvidia-pytriton` wheel. The bundled one has published security holes and is for
loopback only.

    with TritonServer(Settings(checkpoint=...)) as server:
        Client(server.grpc_url).embed("hello")
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from lensemble.operations import orphan_guard
from lensemble.operations.ascii_paths import make_server_folder, with_ascii_paths
from lensemble.operations.installation import find_tritonserver
from lensemble.operations.model_repository import (
    served_models,
    with_instance_counts,
    write_repository,
)
from lensemble.operations.ports import LOOPBACK, free_ports
from lensemble.operations.readiness import PortTakenError, log_tail, wait_until_ready
from lensemble.operations.tritonserver_command import (
    Endpoints,
    assemble_backends,
    tritonserver_command,
    tritonserver_environment,
)
from lensemble.settings import Settings
from lensemble_contract.errors import DeadlineExceededError, InternalError, InvalidInputError
from lensemble_contract.tls import Tls

logger = logging.getLogger(__name__)

# Time limit for requests in progress to finish after `stop`; then the server is killed.
STOP_TIMEOUT_S = 20.0

_SHARED_MEMORY = Path("/dev/shm")


class TritonServer:
    """One tritonserver process with Lensemble's models; a context manager.

    Args:
        settings: the server's settings.
        grpc_port: TCP port for gRPC; 0 takes a free one.
        http_port: TCP port for HTTP; 0 takes a free one.
        metrics_port: TCP port for metrics; 0 takes a free one.
        address: address to listen on. The bundled server accepts loopback only.
        tritonserver: path of the program; None searches for it.
        repository: folder of models, as `model_repository.write_repository` writes it; its
            `config.pbtxt` files may be edited. None writes one for these settings.
        tls: folder with `tls.crt` and `tls.key` (`lensemble_contract.tls`), with which gRPC is
            served over TLS. HTTP and metrics then listen on loopback only: Triton has no TLS for
            them. None serves without TLS.
        mutual: whether callers must show a certificate that the folder's `ca.crt` signed.
        start_timeout_s: seconds within which the models must be ready, for each try; None takes
            `Settings.start_timeout_s`.
        start_tries: number of tries. A try fails if the server is not ready in time, or if another
            program takes one of its ports meanwhile. The bundled server hangs at about one start in
            a hundred: a model process is ready, but tritonserver keeps waiting for it.

    Attributes:
        grpc_url: URL for `Client`, once started.
        http_url: URL for `Client` and curl, once started.
        metrics_url: URL for Prometheus, once started.
        log_file: Triton's log, in a temporary folder that `stop` removes.

    Raises:
        InvalidInputError: There is no tritonserver, or an option cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        address: str = LOOPBACK,
        tritonserver: Path | None = None,
        repository: Path | None = None,
        tls: Path | None = None,
        mutual: bool = False,
        start_timeout_s: float | None = None,
        start_tries: int = 2,
    ) -> None:
        self._settings = with_instance_counts(settings) if repository is None else settings
        self._requested_ports = self._ports_in_use = (grpc_port, http_port, metrics_port)
        self._address = address
        self._installation = find_tritonserver(tritonserver)
        if self._installation.stub is not None and address != LOOPBACK:
            raise InvalidInputError(
                f"{address!r}: the bundled tritonserver has known security holes and listens on "
                f"{LOOPBACK} only; use NVIDIA's image (docker-compose.yml) to serve others",
                field="address",
            )
        self._repository = repository
        self._mutual = mutual
        self._tls = None if tls is None else Tls.from_folder(tls).check_for_server(mutual=mutual)
        self._start_timeout_s = start_timeout_s or settings.start_timeout_s
        self._start_tries = start_tries
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._shared_memory_prefix = f"lensemble_{uuid.uuid4().hex[:12]}_"
        self._end_lock = threading.Lock()
        self.grpc_url = self.http_url = self.metrics_url = ""
        self.log_file = Path()

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
    def models(self) -> list[str]:
        """Names of the served models, including ensembles."""
        return served_models(self._settings)

    @property
    def heartbeats(self) -> Path:
        """Folder of the model processes' heartbeat files; only while started."""
        assert self._folder is not None
        return self._folder / "heartbeats"

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver; None if it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Starts the server and waits until its models are ready.

        Raises:
            InvalidInputError: A requested port is taken.
            InternalError: The server ended; the message has the end of its log.
            DeadlineExceededError: The server was not ready in time; it was stopped again.
        """
        if self._process is not None:
            return self
        for number in range(1, self._start_tries + 1):
            try:
                self._start()
                break
            except (DeadlineExceededError, PortTakenError) as error:
                if number == self._start_tries:
                    raise
                logger.warning("the start failed and is repeated: %s", error)
        return self

    def restart(self) -> Self:
        """Kills a server that has failed, and starts it again on the same ports.

        Raises:
            InvalidInputError: Another program has taken one of the ports.
            InternalError: The new server ended before it was ready.
            DeadlineExceededError: The new server was not ready in time.
        """
        self._end(grace_s=0)
        self._requested_ports = self._ports_in_use
        return self.start()

    def stop(self) -> None:
        """Stops the server and removes its files and shared memory; may be called repeatedly.

        Requests in progress may finish within `STOP_TIMEOUT_S`.
        """
        self._end(grace_s=STOP_TIMEOUT_S)

    def wait(self) -> int:
        """Waits until the server ends by itself, and returns its exit status.

        Raises:
            InternalError: The server is not running.
        """
        return self._running_process().wait()

    def poll(self) -> int | None:
        """The exit status; None while the server runs.

        Raises:
            InternalError: The server was not started.
        """
        return self._running_process().poll()

    def log_tail(self) -> str:
        """The errors in the server's log, and its last lines."""
        return log_tail(self.log_file)

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise InternalError("the server is not running")
        return self._process

    def _start(self) -> None:
        endpoints = self._endpoints()  # before the folder is made, because a port may be taken
        self._folder = make_server_folder("lensemble-")
        self.log_file = self._folder / "tritonserver.log"
        self.heartbeats.mkdir()
        self._ports_in_use = (endpoints.grpc, endpoints.http, endpoints.metrics)
        scheme = "grpc" if self._tls is None else "grpcs"
        self.grpc_url = f"{scheme}://{endpoints.grpc_address}:{endpoints.grpc}"
        self.http_url = f"http://{endpoints.plain_address}:{endpoints.http}"
        self.metrics_url = f"http://{endpoints.plain_address}:{endpoints.metrics}/metrics"
        atexit.register(self.stop)
        try:
            self._process = self._launch(endpoints, self._folder)
            orphan_guard.watch(
                self._process.pid, folder=self._folder, segments=self._shared_memory_prefix
            )
            wait_until_ready(
                lambda: self._process,
                models=self.models,
                http_url=self.http_url,
                ports=self._ports_in_use,
                log_file=self.log_file,
                timeout_s=self._start_timeout_s,
            )
        except BaseException:
            self._end(grace_s=0)  # it serves nobody yet
            raise

    def _endpoints(self) -> Endpoints:
        plain_address = self._address if self._tls is None else LOOPBACK
        grpc, http, metrics = free_ports(self._requested_ports, self._address)
        return Endpoints(self._address, plain_address, grpc, http, metrics, self._tls, self._mutual)

    def _launch(self, endpoints: Endpoints, folder: Path) -> subprocess.Popen[bytes]:
        settings = self._settings.with_changes(heartbeats=self.heartbeats)
        repository = self._repository
        if repository is None:
            repository = write_repository(settings, folder / "models")
        command = tritonserver_command(
            self._installation,
            settings,
            endpoints,
            repository=repository,
            backends=assemble_backends(self._installation, folder / "backends"),
            shared_memory_prefix=self._shared_memory_prefix,
        )
        environment = with_ascii_paths(
            tritonserver_environment(self._installation, settings, [self._address]),
            settings,
            folder / "paths",
        )
        # The log is opened for appending, so that another program can truncate it.
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only this process, which stops the server properly.
                start_new_session=True,
            )

    def _end(self, grace_s: float) -> None:
        with self._end_lock:
            process, self._process = self._process, None
            if process is not None:
                if grace_s:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace_s)
                # The whole process group is killed, because model processes outlive a server that
                # was killed.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                orphan_guard.forget(process.pid)
            for segment in _SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
                segment.unlink(missing_ok=True)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            atexit.unregister(self.stop)
