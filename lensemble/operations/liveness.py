"""Do the models' processes live, and do they get on with their work?

Triton calls a model ready that was loaded once, also when its process has died or hangs (seen with
2.51; newer ones notice the dead). So the processes are looked at themselves:

- died: gone, or a zombie that Triton has not collected.
- stopped: by a signal or a debugger.
- hangs: in one call for longer than the stage's patience (`Stage.patience_s`) without using a CPU,
  or for a hundred times as long although it does.
- failing: asked for a little of its own work (`contract.PING`), it answers with an error, twice.
- silent: neither it nor Triton answers that, and none of its processes is in a call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from lensemble.scheduling import heartbeat
from lensemble_client import Client, Retry, calls
from lensemble_contract.errors import DeadlineExceededError, LensembleError

REASONS = ("died", "stopped", "hangs", "failing", "silent")
PING_S = 2.0
_FAILED_PINGS = 2
_SILENT_S = 10.0
_WORKS = 0.1
"""Part of a core that a process uses which works on something."""
_AS_LONG = 100
"""Times a stage's patience that one call may take if it does use a CPU."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server has to be started again.

    Attributes:
        reason: Word for metrics, of `REASONS`.
        text: One line for people.
    """

    reason: str
    text: str


class Pulse:
    """Watches one server's processes.

    Args:
        pid: Of tritonserver, whose models are ready.
        url: For pings: its HTTP, which is without TLS.
        heartbeats: Folder into which the processes write (`heartbeat`).
        models: Names of the models that are processes.

    Raises:
        psutil.NoSuchProcess: One has died already.
    """

    def __init__(self, pid: int, url: str, heartbeats: Path, models: Sequence[str]) -> None:
        self._server = psutil.Process(pid)
        beats = heartbeat.read(heartbeats)
        self._stubs = {beat.pid: psutil.Process(beat.pid) for beat in beats}
        self._names = {beat.pid: beat.model for beat in beats}
        self._heartbeats, self._models = heartbeats, models
        self._client = Client(url, timeout_s=PING_S, retry=Retry(tries=1))
        self._threads = ThreadPoolExecutor(max(1, len(models)), "ping")
        now = time.monotonic()
        self._used = {pid: (now, _cpu_s(stub)) for pid, stub in self._stubs.items()}
        self._heard = dict.fromkeys(models, now)
        self._failed = dict.fromkeys(models, 0)

    def close(self) -> None:
        """Ends the threads that ping, and their connection."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def look(self) -> Fault | None:
        """Looks at the processes: some milliseconds."""
        for pid, process in {self._server.pid: self._server, **self._stubs}.items():
            name = self._names.get(pid, "tritonserver")
            status = status_of(process)
            if status in (None, psutil.STATUS_ZOMBIE):
                return Fault("died", f"{name} (process {pid}) died")
            if status == psutil.STATUS_STOPPED:
                return Fault("stopped", f"{name} (process {pid}) was stopped")
        return self._hanging()

    def ping(self) -> Fault | None:
        """Asks every model whether it works: a few milliseconds, or up to `PING_S`."""
        errors = dict(zip(self._models, self._threads.map(self._ask, self._models), strict=True))
        now = time.monotonic()
        busy = {beat.model for beat in heartbeat.read(self._heartbeats) if beat.since is not None}
        for model, error in errors.items():
            unheard = isinstance(error, DeadlineExceededError)
            answered = error is None or calls.is_answer(error)
            if not unheard or model in busy:
                # One that is in a call gets on with it, or `look` finds that it does not.
                self._heard[model] = now
            self._failed[model] = 0 if answered or unheard else self._failed[model] + 1
            if self._failed[model] >= _FAILED_PINGS:
                return Fault("failing", f"{model}: {error}")
            if now - self._heard[model] > _SILENT_S:
                return Fault("silent", f"{model} has not answered for {_SILENT_S:g} s")
        return None

    def _ask(self, model: str) -> LensembleError | None:
        try:
            self._client.run(calls.ping(model), PING_S)
        except LensembleError as error:
            return error
        return None

    def _hanging(self) -> Fault | None:
        now = time.monotonic()
        for beat in heartbeat.read(self._heartbeats):
            stub = self._stubs.get(beat.pid)
            if stub is None or beat.since is None:
                continue
            before, used = self._used[beat.pid]
            if before < beat.since or now - before >= beat.patience_s:
                # Looked at anew when a call begins, and then once in as long as it may stand still.
                after = _cpu_s(stub)
                self._used[beat.pid] = (now, after)
                if before >= beat.since and after - used < _WORKS * (now - before):
                    return Fault("hangs", f"{beat.model} hangs: {_for(now, beat)}")
            if now - beat.since > _AS_LONG * beat.patience_s:
                return Fault("hangs", f"{beat.model} does not end: {_for(now, beat)}")
        return None


def status_of(process: psutil.Process) -> str | None:
    """Its status, one of psutil's; None if it is gone."""
    try:
        return str(process.status()) if process.is_running() else None
    except psutil.NoSuchProcess:
        return None


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _for(now: float, beat: heartbeat.Beat) -> str:
    return f"one call for {now - (beat.since or now):.1f} s (process {beat.pid})"
