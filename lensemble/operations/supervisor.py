"""Keeps a server serving: finds that it does not, kills it, and starts it again on the same ports.

    with Supervisor(TritonServer(Settings(checkpoint=...))) as supervisor:
        supervisor.wait()

Triton starts none of its models' processes again. Loading a model anew would take its
model-control API, which on 2.51 has published holes, and a look at which files were touched; a
start takes seconds, and leaves nothing of what has failed. What was acknowledged is on disk by
then (docs/index.md); requests under way fail, and callers who retry are answered by the new server.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Self

import psutil

from lensemble.operations.liveness import Fault, Pulse
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.admission import Publisher
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

LOOK_S = 0.25
"""Between two looks at the processes."""
PING_EVERY_S = 2.0
STARTS = 5
"""Starts in a row that may fail; then it is given up."""
START = "start"
"""Why a server is started again that did not start."""
_JOIN_S = 0.2
_WAIT_S = 1.0


@dataclass(slots=True)
class State:
    """How the server is.

    Attributes:
        ready: Whether it serves, as far as is known.
        reason: Why not; empty if it does.
        since: `time.time()` of the last change.
        restarts: Reason of `Fault`, or `start` -> how often it was started again for it.
        recovery_s: From finding the last fault until it served again, in seconds; 0 before one.
    """

    ready: bool = False
    reason: str = "starting"
    since: float = field(default_factory=time.time)
    restarts: dict[str, int] = field(default_factory=dict)
    recovery_s: float = 0.0


class Supervisor:
    """Starts a server, watches it, and starts it again; a context manager.

    Args:
        server: Not yet started.

    Attributes:
        server: That one.
        state: How it is now.
    """

    def __init__(self, server: TritonServer) -> None:
        self.server, self.state = server, State()
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._failed: Exception | None = None
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
        """Says that it is not ready any more, and serves on: for balancers to take it out."""
        self._retired = True
        self._set(ready=False, reason="stopping")

    def stop(self) -> None:
        """Stops watching, then the server."""
        self._stopping.set()
        self._set(ready=False, reason="stopping")
        self.server.stop()
        while self._thread.is_alive():
            self._thread.join(_JOIN_S)
            self.server.stop()  # a start was under way

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until there is no server any more that could be watched.

        Args:
            timeout_s: Seconds at most; None waits on.

        Returns:
            Whether it came to that.

        Raises:
            InternalError: It could not be started `STARTS` times in a row, or watching it failed.
        """
        ended = self._ended.wait(timeout_s)
        if ended and self._failed is not None:
            raise InternalError(f"the server is given up: {self._failed}") from self._failed
        return ended

    def _run(self) -> None:
        try:
            while (fault := self._watch()) is not None and not self._stopping.is_set():
                self._recover(fault)
        except Exception as error:  # without a watcher it must not look as if all were well
            if not self._stopping.is_set():
                self._failed = error
                self._set(ready=False, reason=f"nobody watches: {str(error).splitlines()[0]}")
        finally:
            self._ended.set()

    def _watch(self) -> Fault | None:
        """The next fault; None when it is to stop."""
        pid = self.server.pid
        if pid is None:
            return None
        models = [name for name in self.server.models if name in contract.PROCESSES]
        try:
            pulse = Pulse(pid, self.server.http_url, self.server.heartbeats, models)
        except psutil.NoSuchProcess as error:  # before it could be looked at
            return Fault("died", f"process {error.pid} died")
        try:
            with Publisher(self.server.metrics_url, self.server.heartbeats):
                return self._faults(pulse)
        finally:
            pulse.close()

    def _faults(self, pulse: Pulse) -> Fault | None:
        due = time.monotonic() + PING_EVERY_S
        while not self._stopping.wait(LOOK_S):
            fault = pulse.look()
            if fault is None and time.monotonic() >= due:
                fault = pulse.ping()
                due = time.monotonic() + PING_EVERY_S
            if fault is not None:
                return fault
        return None

    def _recover(self, fault: Fault) -> None:
        """Starts the server again; waits longer and longer between starts that fail."""
        found = time.monotonic()
        self._set(ready=False, reason=fault.text)
        logger.error("%s; the server's log ends with\n%s", fault.text, self.server.log_tail())
        last: LensembleError | None = None
        for failed in range(STARTS):
            self._count(fault.reason if not failed else START)
            if failed:
                self._stopping.wait(_WAIT_S * 2 ** (failed - 1))
            if self._stopping.is_set():
                return
            try:
                self.server.restart()
                break
            except LensembleError as error:
                if self._stopping.is_set():
                    return
                self._set(ready=False, reason=f"start failed: {str(error).splitlines()[0]}")
                logger.error("start %d of %d failed: %s", failed + 1, STARTS, error)
                last = error
        else:
            raise InternalError(f"{STARTS} starts failed; the last one: {last}")
        self.state.recovery_s = time.monotonic() - found
        self._set(ready=not self._retired, reason="stopping" if self._retired else "")
        logger.warning("serving again after %.1f s", self.state.recovery_s)

    def _count(self, reason: str) -> None:
        self.state.restarts[reason] = self.state.restarts.get(reason, 0) + 1

    def _set(self, *, ready: bool, reason: str) -> None:
        self.state.ready, self.state.reason, self.state.since = ready, reason, time.time()
