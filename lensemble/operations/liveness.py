"""Liveness check: finds model processes that died, were stopped, hang or fail.

Triton reports a model as ready once it was loaded, even if its process died or hangs (seen with
2.51; newer releases notice dead processes). So the supervisor looks at the processes themselves:

- died: the process is gone, or is a zombie that Triton has not collected.
- stopped: a signal or a debugger stopped the process.
- hangs: the process has been in one call for longer than its stage's patience (`Stage.patience_s`)
  without using a CPU, or for a hundred times as long while using one.
- failing: the model answered two pings in a row with an error. A ping asks for a little of the
  model's own work (`contract.PING`).
- silent: the model does not answer pings, although none of its processes is in a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from lensemble.scheduling.heartbeat import HeartbeatRecord, read_heartbeats
from lensemble_client import Client, Retry, calls
from lensemble_contract import contract
from lensemble_contract.errors import DeadlineExceededError, LensembleError

REASONS = ("died", "stopped", "hangs", "failing", "silent")

# Time limit of a ping.
PING_S = 2.0

# A model fails the check after this many failed pings in a row, or this many seconds of silence.
_MAX_FAILED_PINGS = 2
_MAX_SILENCE_S = 10.0
# Without a model of these no query is answered.
_QUERY_MODELS = contract.SEARCH.steps
# A server whose model answers nobody for longer is not ready, even if the model is working. With
# the time between two pings and that of a ping, this is known within 15 s.
_MAX_UNANSWERED_S = 10.0
# A process that uses at least this share of a core is working.
_WORKING_CPU_SHARE = 0.1
# A call that keeps using the CPU may last this many times its stage's patience.
_WORKING_PATIENCE_FACTOR = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server has to be restarted.

    Attributes:
        reason: one of `REASONS`, for metrics.
        text: one line for people.
    """

    reason: str
    text: str


class LivenessCheck:
    """Checks the processes of one server.

    Args:
        pid: process id of tritonserver, whose models are ready.
        url: URL of its HTTP port, for pings; that port has no TLS.
        heartbeats: folder of the heartbeat files.
        models: names of the models that have processes (not ensembles).
        clock: the clock, in seconds; `time.monotonic`, like that of the heartbeats.

    Raises:
        psutil.NoSuchProcess: A process has died already.
    """

    def __init__(
        self,
        pid: int,
        url: str,
        heartbeats: Path,
        models: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = psutil.Process(pid)
        records = read_heartbeats(heartbeats)
        self._processes = {record.pid: psutil.Process(record.pid) for record in records}
        self._names = {record.pid: record.model for record in records}
        self._heartbeats, self._models, self._clock = heartbeats, models, clock
        self._client = Client(url, timeout_s=PING_S, retry=Retry(tries=1))
        self._threads = ThreadPoolExecutor(max(1, len(models)), "ping")
        now = clock()
        # For each process: when its CPU time was last read, and the CPU time in seconds.
        self._cpu_times = {pid: (now, _cpu_s(process)) for pid, process in self._processes.items()}
        # For each model: when it last answered a ping, or was in a call.
        self._active_at = dict.fromkeys(models, now)
        # For the models of queries: when a ping was last answered or a call ended, and the calls in
        # progress, as process ids and starts.
        self._progress_at = {model: now for model in models if model in _QUERY_MODELS}
        self._calls: dict[str, set[tuple[int, float]]] = {}
        self._failed_pings = dict.fromkeys(models, 0)

    def close(self) -> None:
        """Ends the threads that ping, and closes their connection."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    @property
    def unanswered(self) -> str:
        """Why nobody is answered now, in one line; empty if somebody is.

        A model that works on one call for long has no fault, because a restart would not be better.
        But callers and load balancers must know that they would wait.
        """
        now = self._clock()
        for model, progress_at in self._progress_at.items():
            if now - progress_at > _MAX_UNANSWERED_S:
                return f"{model} has answered nobody for {_MAX_UNANSWERED_S:g} s; it is still busy"
        return ""

    def check_processes(self) -> Fault | None:
        """Looks for processes that died, were stopped or hang; takes some milliseconds."""
        for pid, process in {self._server.pid: self._server, **self._processes}.items():
            name = self._names.get(pid, "tritonserver")
            status = status_of(process)
            if status in (None, psutil.STATUS_ZOMBIE):
                return Fault("died", f"{name} (process {pid}) died")
            if status == psutil.STATUS_STOPPED:
                return Fault("stopped", f"{name} (process {pid}) was stopped")
        return self._find_hanging()

    def ping(self) -> Fault | None:
        """Pings every model; takes a few milliseconds, or up to `PING_S` if one does not answer."""
        errors = dict(zip(self._models, self._threads.map(self._ping, self._models), strict=True))
        now = self._clock()
        busy = {each.model for each in read_heartbeats(self._heartbeats) if each.since is not None}
        for model, error in errors.items():
            timed_out = isinstance(error, DeadlineExceededError)
            answered = error is None or calls.proves_alive(error)
            if not timed_out and model in self._progress_at:
                self._progress_at[model] = now
            if not timed_out or model in busy:
                # `check_processes` finds a model that makes no progress in its call.
                self._active_at[model] = now
            self._failed_pings[model] = (
                0 if answered or timed_out else self._failed_pings[model] + 1
            )
            if self._failed_pings[model] >= _MAX_FAILED_PINGS:
                return Fault("failing", f"{model}: {error}")
            if now - self._active_at[model] > _MAX_SILENCE_S:
                return Fault("silent", f"{model} has not answered for {_MAX_SILENCE_S:g} s")
        return None

    def _ping(self, model: str) -> LensembleError | None:
        try:
            self._client.run(calls.ping(model), PING_S)
        except LensembleError as error:
            return error
        return None

    def _find_hanging(self) -> Fault | None:
        now = self._clock()
        records = read_heartbeats(self._heartbeats)
        self._note_ended_calls(records, now)
        for record in records:
            process = self._processes.get(record.pid)
            if process is None or record.since is None:
                continue
            read_at, cpu_before = self._cpu_times[record.pid]
            if read_at < record.since or now - read_at >= record.patience_s:
                # CPU time is read when a call is first seen, and then once in each patience.
                cpu_now = _cpu_s(process)
                self._cpu_times[record.pid] = (now, cpu_now)
                used_s, elapsed_s = cpu_now - cpu_before, now - read_at
                if read_at >= record.since and used_s < _WORKING_CPU_SHARE * elapsed_s:
                    return Fault("hangs", f"{record.model} hangs: {_call_text(now, record)}")
            if now - record.since > _WORKING_PATIENCE_FACTOR * record.patience_s:
                return Fault("hangs", f"{record.model} does not end: {_call_text(now, record)}")
        return None

    def _note_ended_calls(self, records: Sequence[HeartbeatRecord], now: float) -> None:
        for model in self._progress_at:
            calls_now = {(r.pid, r.since) for r in records if r.model == model and r.since}
            if self._calls.get(model, set()) - calls_now:
                self._progress_at[model] = now
            self._calls[model] = calls_now


def status_of(process: psutil.Process) -> str | None:
    """The status of a process, one of psutil's constants; None if it is gone."""
    try:
        return str(process.status()) if process.is_running() else None
    except psutil.NoSuchProcess:
        return None


def _cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU time that a process and its children have used; 0 if it is gone.

    `preprocess` decodes large pictures in child processes and waits for them.
    """
    try:
        own = process.cpu_times()
        used = own.user + own.system + own.children_user + own.children_system
        for child in process.children():
            times = child.cpu_times()
            used += times.user + times.system
    except psutil.NoSuchProcess:
        return 0.0
    return float(used)


def _call_text(now: float, record: HeartbeatRecord) -> str:
    return f"one call for {now - (record.since or now):.1f} s (process {record.pid})"
