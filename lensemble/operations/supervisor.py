"""Keeps a server running: if it fails its liveness checks, kills and restarts it on the same ports.

    with Supervisor(TritonServer(Settings(checkpoint=...))) as supervisor:
        supervisor.wait()

Triton does not restart model processes that died. Reloading a model would need Triton's
model-control API, which has published security holes in 2.51, and works only if a file of the model
has changed. A restart of the whole server takes seconds and leaves nothing of the failed one
behind. Acknowledged writes are on disk by then (docs/index.md). Requests in progress fail; clients
that retry are answered by the new server.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Self

import psutil

from lensemble.operations.liveness import Fault, LivenessCheck
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.queue_monitor import QueueMonitor
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

# Seconds between two checks of the processes, and between two pings.
CHECK_EVERY_S = 0.25
PING_EVERY_S = 2.0

# After this many failed starts in a row, the supervisor gives up.
MAX_STARTS = 5

# The reason of a restart after a failed start.
FAILED_START = "start"

# Seconds between two tries to stop a server that is just being started.
_STOP_EVERY_S = 0.2
# Seconds before the second start; the wait doubles from start to start.
_FIRST_WAIT_S = 1.0


@dataclass(slots=True)
class SupervisorState:
    """The state of the supervised server.

    Attributes:
        ready: whether the server answers callers and is not being stopped.
        reason: why it is not ready; empty if it is.
        since: `time.time()` of the last change.
        restarts: number of restarts for each reason (`liveness.REASONS` and `FAILED_START`).
        recovery_s: seconds from finding the last fault until the server served again; 0 before the
            first restart.
    """

    ready: bool = False
    reason: str = "starting"
    since: float = field(default_factory=time.time)
    restarts: dict[str, int] = field(default_factory=dict)
    recovery_s: float = 0.0


class Supervisor:
    """Starts a server, watches it and restarts it when it fails; a context manager.

    Args:
        server: the server, not yet started.

    Attributes:
        server: that server.
        state: its current state.
    """

    def __init__(self, server: TritonServer) -> None:
        self.server, self.state = server, SupervisorState()
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._retired = False
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self.server.start()
        self._set(ready=True, reason="")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def retire(self) -> None:
        """Reports the server as not ready while it still serves, so that load balancers drop it."""
        self._retired = True
        self._set(ready=False, reason="stopping")

    def stop(self) -> None:
        """Stops watching, then stops the server."""
        self._stopping.set()
        self._set(ready=False, reason="stopping")
        self.server.stop()
        while self._thread.is_alive():
            self._thread.join(_STOP_EVERY_S)
            self.server.stop()  # the thread may have been in the middle of a start

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until watching has ended.

        Args:
            timeout_s: largest number of seconds to wait; None waits without limit.

        Returns:
            Whether watching has ended.

        Raises:
            InternalError: `MAX_STARTS` starts in a row failed, or watching itself failed.
        """
        ended = self._ended.wait(timeout_s)
        if ended and self._failure is not None:
            raise InternalError(f"the supervisor has given up: {self._failure}") from self._failure
        return ended

    def _run(self) -> None:
        try:
            while (fault := self._watch()) is not None and not self._stopping.is_set():
                self._recover(fault)
        except Exception as error:  # without a watcher, the server must not be reported as ready
            if not self._stopping.is_set():
                self._failure = error
                self._set(ready=False, reason=f"the supervisor has given up: {_first_line(error)}")
        finally:
            self._ended.set()

    def _watch(self) -> Fault | None:
        """Watches the server until its next fault; None if the supervisor is to stop."""
        pid = self.server.pid
        if pid is None:
            return None
        models = [name for name in self.server.models if name in contract.PROCESS_MODELS]
        try:
            check = LivenessCheck(pid, self.server.http_url, self.server.heartbeats, models)
        except psutil.NoSuchProcess as error:
            return Fault("died", f"process {error.pid} died")
        try:
            with QueueMonitor(self.server.metrics_url, self.server.heartbeats):
                return self._next_fault(check)
        finally:
            check.close()

    def _next_fault(self, check: LivenessCheck) -> Fault | None:
        next_ping = time.monotonic() + PING_EVERY_S
        while not self._stopping.wait(CHECK_EVERY_S):
            fault = check.check_processes()
            if fault is None and time.monotonic() >= next_ping:
                fault = check.ping()
                self._report_unanswered(check.unanswered)
                next_ping = time.monotonic() + PING_EVERY_S
            if fault is not None:
                return fault
        return None

    def _report_unanswered(self, reason: str) -> None:
        """Reports the server as not ready while it answers nobody, without a restart."""
        if self._retired or self._stopping.is_set() or reason == self.state.reason:
            return
        logger.warning("%s", reason or "serving again")
        self._set(ready=not reason, reason=reason)

    def _recover(self, fault: Fault) -> None:
        """Restarts the server, with a growing wait between starts that fail."""
        fault_at = time.monotonic()
        self._set(ready=False, reason=fault.text)
        logger.error("%s; the server's log ends with\n%s", fault.text, self.server.log_tail())
        last_error: LensembleError | None = None
        for failed_starts in range(MAX_STARTS):
            self._count_restart(FAILED_START if failed_starts else fault.reason)
            if failed_starts:
                self._stopping.wait(_FIRST_WAIT_S * 2 ** (failed_starts - 1))
            if self._stopping.is_set():
                return
            try:
                self.server.restart()
                break
            except LensembleError as error:
                if self._stopping.is_set():
                    return
                self._set(ready=False, reason=f"start failed: {_first_line(error)}")
                logger.error("start %d of %d failed: %s", failed_starts + 1, MAX_STARTS, error)
                last_error = error
        else:
            raise InternalError(f"{MAX_STARTS} starts failed; the last one: {last_error}")
        self.state.recovery_s = time.monotonic() - fault_at
        self._set(ready=not self._retired, reason="stopping" if self._retired else "")
        logger.warning("serving again after %.1f s", self.state.recovery_s)

    def _count_restart(self, reason: str) -> None:
        self.state.restarts[reason] = self.state.restarts.get(reason, 0) + 1

    def _set(self, *, ready: bool, reason: str) -> None:
        self.state.ready, self.state.reason, self.state.since = ready, reason, time.time()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
