"""Waits until a starting tritonserver is ready, or says why it is not."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from lensemble_contract.errors import DeadlineExceededError, InternalError

_POLL_S = 0.1
_HTTP_TIMEOUT_S = 2
# Seconds that processes get to write their stacks into the log.
_STACKS_S = 0.5
_TAIL_LINES = 30
# Triton writes line breaks in an error as `\n`; the stack comes after `At:`.
_LOAD_FAILURE = re.compile(
    r"failed to load '(?P<model>\w+)' version \d+: (Internal: |Invalid argument: )?"
    r"(?P<error>.+?)(\\n\\nAt:|\"?$)",
    re.MULTILINE,
)
# Part of Triton's message about a port that is taken.
_PORT_IN_USE = "already in use"


class PortTakenError(InternalError):
    """Another program listens on a port of tritonserver."""


def wait_until_ready(
    process: Callable[[], subprocess.Popen[bytes] | None],
    *,
    models: Sequence[str],
    http_url: str,
    ports: Iterable[int],
    log_file: Path,
    timeout_s: float,
) -> None:
    """Waits until all models are ready.

    Args:
        process: returns the process of tritonserver; None once it was stopped.
        models: names of the models.
        http_url: URL of Triton's HTTP port.
        ports: all ports on which it must listen.
        log_file: its log.
        timeout_s: largest number of seconds to wait.

    Raises:
        PortTakenError: Tritonserver ended because a port is taken.
        InternalError: Tritonserver ended, or was stopped; the message has the end of its log.
        DeadlineExceededError: Tritonserver was not ready in time. The message has the stacks of the
            processes of the models that are not ready. Asking for the stacks may have killed them.
    """
    deadline = time.monotonic() + timeout_s
    waiting = list(models)
    while True:
        waiting = [model for model in waiting if not _is_ready(http_url, model)]
        running = process()
        if running is None:
            raise InternalError("the server was stopped while it started")
        if not waiting and _listens_on(running.pid, set(ports)):
            return
        if (status := running.poll()) is not None:
            tail = log_tail(log_file)
            kind = PortTakenError if _PORT_IN_USE in tail else InternalError
            text = f"tritonserver ended with status {status} before it was ready"
            causes = "\n".join(_load_failures(log_file))
            # First, and also last: the log in between is longer than a screen.
            raise kind(f"{text}: {causes}\n{tail}\n{causes}" if causes else f"{text}:\n{tail}")
        if time.monotonic() > deadline:
            raise DeadlineExceededError(
                f"tritonserver was not ready within {timeout_s:g} s; still waiting for "
                f"{', '.join(waiting) or 'its ports'}:\n{log_tail(log_file)}\n"
                f"{_stacks(running.pid, waiting, log_file)}"
            )
        time.sleep(_POLL_S)


def log_tail(log_file: Path) -> str:
    """The errors in a log, and its last lines."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    errors = [line for line in lines[:-_TAIL_LINES] if line.startswith("E")]
    return "\n".join([*errors, *lines[-_TAIL_LINES:]])


def _load_failures(log_file: Path) -> list[str]:
    """For each model that failed to load, its name and the error, without the stack.

    Triton repeats the error and its stack for the model and for every ensemble that needs it.
    """
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        return []
    return [
        f"{match['model']}: {match['error'].strip()}"
        for match in _LOAD_FAILURE.finditer(text)
        if "ensemble '" not in match["error"]
    ]


def _is_ready(http_url: str, model: str) -> bool:
    url = f"{http_url}/v2/models/{model}/ready"
    try:
        with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S) as answer:  # nosec B310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listens_on(pid: int, ports: set[int]) -> bool:
    """Whether this process is the one that listens on the ports.

    Between `free_ports` and Triton's own bind, seconds later, another server may take a port. That
    server then reports all models as ready, while this one ends.
    """
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:  # on a hardened system: assume that it listens
        return True
    except psutil.Error:
        return False
    return ports <= {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}


def _stacks(pid: int, models: Sequence[str], log_file: Path) -> str:
    """Makes the processes of some models write their stacks to the log, and returns the stacks.

    They do so on SIGUSR1, with the handler that `lensemble.stages.python_backend.load` installs.
    The signal kills a process that has not installed it yet, so this is only for a server that will
    be stopped anyway.
    """
    size_before = log_file.stat().st_size
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            command = " ".join(process.cmdline())
            if any(f"/{model}/" in command for model in models):
                process.send_signal(signal.SIGUSR1)
    time.sleep(_STACKS_S)
    with log_file.open(errors="replace") as log:
        log.seek(size_before)
        return log.read()
