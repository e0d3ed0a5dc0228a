"""Starts and stops a real tritonserver on this machine.

The binary is the one given, the one on PATH (as in NVIDIA's images), or the one inside the
`nvidia-pytriton` wheel. That last one has published security holes and is for loopback only.

    with TritonServer(Settings(checkpoint=...)) as server:
        Client(server.grpc_url).embed("hello")
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from lensemble.operations.installation import find_tritonserver
from lensemble.operations.model_repository import (
    served_models,
    with_instance_counts,
    write_repository,
)
from lensemble.settings import PREFIX, Settings
from lensemble_contract.errors import DeadlineExceededError, InternalError, InvalidInputError
from lensemble_contract.tls import Tls

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
"""Seconds that requests under way have to finish before the server is killed."""

GOMP_SPINCOUNT = "1000"
"""Turns that PyTorch's threads on CPUs wait for each other before they sleep."""

PRIMITIVES = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""How many compiled products PyTorch and oneDNN keep, of each size a megabyte; both 1,024 without.
Every pass has other sizes, so more are not found again; docs/decisions.md has the figures."""

_SHUT = ("model-repository", "trace", "logging", "shared-memory")
"""Triton's APIs that change the server, and that nothing here needs; docs/security.md."""

_POLL_S = 0.1
_IN_USE = "already in use"
"""Triton's words for a port that it cannot have."""
_STACKS_S = 0.5
_LOG_LINES = 30
_SHARED_MEMORY = Path("/dev/shm")


class TritonServer:
    """One tritonserver process with Lensemble's models; a context manager.

    Args:
        settings: What the models need to know.
        grpc_port: 0 takes a free one.
        http_port: 0 takes a free one.
        metrics_port: 0 takes a free one.
        address: Where to listen. Anything but loopback is for NVIDIA's images only.
        tritonserver: The program; None looks for one.
        repository: Folder of models, as `model_repository.write_repository` writes it; its
            `config.pbtxt` files may be edited. None writes one for these settings.
        tls: Folder with `tls.crt` and `tls.key` (`lensemble_contract.tls`): gRPC is over TLS then.
            HTTP, for which Triton has no TLS, and metrics are on loopback only.
        mutual: Whether callers must show a certificate of the folder's `ca.crt`.
        start_timeout_s: Seconds until the models must be ready, of one try.
        start_tries: How often a server is started that is not ready in time, or loses a port to
            somebody else meanwhile. The bundled one hangs at the start once in some hundred times:
            a model's process is done, and waits for it.

    Attributes:
        grpc_url: For `Client`, once started.
        http_url: For `Client` and curl, once started.
        metrics_url: For Prometheus, once started.
        log_file: Triton's log; it lies in a temporary folder until `stop`.
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
        start_timeout_s: float = START_TIMEOUT_S,
        start_tries: int = 2,
    ) -> None:
        self._settings = with_instance_counts(settings) if repository is None else settings
        self._ports = (grpc_port, http_port, metrics_port)
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
        self._tls = None if tls is None else Tls.of(tls).for_server(mutual=mutual)
        self._plain = address if tls is None else LOOPBACK
        self._start_timeout_s, self._start_tries = start_timeout_s, start_tries
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._shared_memory_prefix = f"lensemble_{uuid.uuid4().hex[:12]}_"
        self._stopping = threading.Lock()
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
        """Names of the models that it serves, ensembles among them."""
        return served_models(self._settings)

    @property
    def heartbeats(self) -> Path:
        """Folder into which the models' processes write (`heartbeat`); once started."""
        assert self._folder is not None
        return self._folder / "heartbeats"

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver; None if it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Starts the server and waits until its models are ready.

        Raises:
            InternalError: It died; the message has its log's last lines.
            DeadlineExceededError: It was not ready in time; it was stopped again.
        """
        if self._process is not None:
            return self
        for left in range(self._start_tries - 1, -1, -1):
            try:
                self._start()
                break
            except (DeadlineExceededError, _PortTakenError) as error:
                if not left:
                    raise
                logger.warning("starting once more: %s", error)
        return self

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lensemble-"))
        self.log_file = self._folder / "tritonserver.log"
        self.heartbeats.mkdir()
        ports = free_ports(self._ports, self._address)
        grpc, http, metrics = ports
        scheme = "grpc" if self._tls is None else "grpcs"
        self.grpc_url = f"{scheme}://{self._address}:{grpc}"
        self.http_url = f"http://{self._plain}:{http}"
        self.metrics_url = f"http://{self._plain}:{metrics}/metrics"
        atexit.register(self.stop)
        try:
            with self.log_file.open("ab") as log:  # who empties it leaves no hole
                self._process = subprocess.Popen(
                    self._command(ports),
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches this process alone, which then stops the server in order.
                    start_new_session=True,
                )
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> Self:
        """Kills the server and starts it again on the same ports; for one that has failed.

        Raises:
            InternalError: It died again before it was ready.
            DeadlineExceededError: It was not ready in time.
        """
        urls = (self.grpc_url, self.http_url, self.metrics_url)
        grpc, http, metrics = (urlsplit(url).port or 0 for url in urls)
        self._end(grace_s=0)
        self._ports = (grpc, http, metrics)
        return self.start()

    def stop(self) -> None:
        """Stops the server and removes all that it left; safe to call again.

        Requests under way have `STOP_TIMEOUT_S` to finish.
        """
        self._end(grace_s=STOP_TIMEOUT_S)

    def _end(self, grace_s: float) -> None:
        with self._stopping:
            process, self._process = self._process, None
            if process is not None:
                if grace_s:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace_s)
                # Also the models' processes, which outlive a server that was killed.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for segment in _SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
                segment.unlink(missing_ok=True)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            atexit.unregister(self.stop)

    def wait(self) -> int:
        """Waits until the server ends by itself, and returns its exit status.

        Raises:
            InternalError: It is not running.
        """
        if self._process is None:
            raise InternalError("the server is not running")
        return self._process.wait()

    def poll(self) -> int | None:
        """Its exit status; None while it runs.

        Raises:
            InternalError: It was not started.
        """
        if self._process is None:
            raise InternalError("the server is not running")
        return self._process.poll()

    def log_tail(self) -> str:
        """The errors in the log, and its last lines."""
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        errors = [line for line in lines[:-_LOG_LINES] if line.startswith("E")]
        return "\n".join([*errors, *lines[-_LOG_LINES:]])

    def _command(self, ports: Sequence[int]) -> list[str]:
        assert self._folder is not None
        grpc, http, metrics = ports
        repository = self._repository
        if repository is None:
            repository = write_repository(self._settings, self._folder / "models")
        command = [
            str(self._installation.binary),
            f"--model-repository={repository}",
            f"--grpc-address={self._address}",
            f"--grpc-port={grpc}",
            f"--http-address={self._plain}",
            f"--http-port={http}",
            f"--metrics-address={self._plain}",
            f"--metrics-port={metrics}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=15",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
        ]
        # Nobody has this key: what it opens is closed.
        shut = ",".join(_SHUT)
        key = f"admin-key={secrets.token_urlsafe(32)}"
        command += [
            f"--grpc-restricted-protocol={shut}:{key}",
            f"--http-restricted-api={shut}:{key}",
        ]
        if self._settings.traces is not None:
            command += [
                "--trace-config=mode=opentelemetry",
                f"--trace-config=opentelemetry,url={self._settings.traces}",
                "--trace-config=opentelemetry,resource=service.name=lensemble",
                "--trace-config=level=TIMESTAMPS",
                f"--trace-config=rate={self._settings.trace_every}",
            ]
        if self._tls is not None:
            command += [
                "--grpc-use-ssl=true",
                f"--grpc-server-cert={self._tls.certificate}",
                f"--grpc-server-key={self._tls.key}",
            ]
        if self._tls is not None and self._mutual:
            command += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self._tls.authority}"]
        if self._installation.backends is not None:
            command.append(f"--backend-directory={self._assembled_backends()}")
        return command

    def _assembled_backends(self) -> Path:
        """The wheel keeps backend and stubs apart; Triton wants them in one folder."""
        assert self._folder is not None and self._installation.backends is not None
        assert self._installation.stub is not None
        target = self._folder / "backends" / "python"
        target.mkdir(parents=True)
        for path in (self._installation.backends / "python").iterdir():
            (target / path.name).symlink_to(path)
        stub = target / self._installation.stub.name
        stub.unlink(missing_ok=True)
        stub.symlink_to(self._installation.stub)
        return target.parent

    def _environment(self) -> dict[str, str]:
        # Not the variables of a setting that is None here: the models would read them.
        inherited = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
        settings = self._settings.with_changes(heartbeats=self.heartbeats)
        environment = {**inherited, **settings.to_env()}
        # Threads of libgomp that wait for each other spin. Where others want their core too, a pass
        # then takes ten times as long: docs/decisions.md.
        environment.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
        for name, value in PRIMITIVES.items():
            environment.setdefault(name, value)
        # The stub finds its packages through the first `python` of the virtual environment.
        environment["VIRTUAL_ENV"] = sys.prefix
        environment["PATH"] = os.pathsep.join([f"{sys.prefix}/bin", os.environ.get("PATH", "")])
        libraries = [self._installation.libraries, sysconfig.get_config_var("LIBDIR")]
        if self._installation.stub is not None:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(
                [*(str(path) for path in libraries if path), os.environ.get("LD_LIBRARY_PATH", "")]
            ).rstrip(os.pathsep)
        return environment

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        waiting = self.models
        while (waiting := [m for m in waiting if not self._is_ready(m)]) or not self._listens():
            if (process := self._process) is None:
                raise InternalError("the server was stopped while it started")
            if (status := process.poll()) is not None:
                tail = self.log_tail()
                kind = _PortTakenError if _IN_USE in tail else InternalError
                raise kind(f"tritonserver ended with status {status} before it was ready:\n{tail}")
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"tritonserver was not ready within {self._start_timeout_s:g} s; still "
                    f"waiting for {', '.join(waiting) or 'its ports'}:\n{self.log_tail()}\n"
                    f"{self._where_they_stand(waiting)}"
                )
            time.sleep(_POLL_S)

    def _where_they_stand(self, models: Sequence[str]) -> str:
        """What the processes of these models are doing: their stacks, which they write to the log.

        `lensemble.stages.python_backend` has them do so on SIGUSR1; one that has not come so far
        dies of it, so this is for a server that is given up.
        """
        import psutil  # the gateway, which imports this module, does not need it

        assert self._process is not None
        seen = self.log_file.stat().st_size
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                command = " ".join(process.cmdline())
                if any(f"/{model}/" in command for model in models):
                    process.send_signal(signal.SIGUSR1)
        time.sleep(_STACKS_S)
        with self.log_file.open(errors="replace") as log:
            log.seek(seen)
            return log.read()

    def _listens(self) -> bool:
        """Whether it is this server that listens on its ports.

        Between `free_ports` and Triton's own bind, seconds later, another one may take a port: that
        one then says that all models are ready, while this one ends.
        """
        import psutil

        urls = (self.grpc_url, self.http_url, self.metrics_url)
        wanted = {urlsplit(url).port for url in urls}
        try:
            sockets = psutil.Process(self.pid or 0).net_connections("tcp")
        except psutil.AccessDenied:  # a hardened system: believe it
            return True
        except psutil.Error:
            return False
        return wanted <= {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}

    def _is_ready(self, model: str) -> bool:
        url = f"{self.http_url}/v2/models/{model}/ready"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # nosec B310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class _PortTakenError(InternalError):
    """Somebody else listens where Triton was to."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into the exception that Ctrl-C raises, so `with` blocks are left.

    SIGINT is set too: a shell's script starts its background jobs with it ignored. Only the first
    counts: `timeout` sends two, and the second would leave a server running that the first had
    begun to stop.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda number, frame: None)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    return free_ports((0,))[0]


def free_ports(wanted: Sequence[int], address: str = LOOPBACK) -> list[int]:
    """The ports, with free ones in place of zeros; all are held until the last is found.

    Args:
        wanted: TCP ports; 0 is any that is free.
        address: Where to listen.

    Raises:
        InvalidInputError: One is taken. Without this look, a server that listens there would answer
            for the one that could not start.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for port in wanted:
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((address, port))
            except (OSError, OverflowError) as error:
                raise InvalidInputError(
                    f"cannot listen on {address}:{port} ({error}); stop what is there, or take "
                    "another port (0 finds a free one)",
                    field="port",
                ) from error
            found.append(held.getsockname()[1])
        return found
