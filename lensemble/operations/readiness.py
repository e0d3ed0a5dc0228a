"""Waits until a starting tritonserver is ready, or says why it is not."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from lensemble_contract import errors
from lensemble_contract.direct_connections import open_without_proxy
from lensemble_contract.errors import DeadlineExceededError, InternalError

_POLL_S = 0.1
_HTTP_TIMEOUT_S = 2
# Seconds that processes get to write their stacks into the log.
_STACKS_S = 0.5
_TAIL_LINES = 30
# Part of Triton's message about a port that is taken.
_PORT_IN_USE = "already in use"
# Triton's message about a model that could not be loaded. It is a JSON string. With Python models
# it contains Triton's code, the class and the text of the exception, and the stack.
_FAILED_MODEL = re.compile(r'^E[^\]]*\] ("failed to load \'.*")$', re.MULTILINE)
_FAILURE = re.compile(
    r"failed to load '(?P<model>\w+)' version \d+: "
    r"(?:(?:Internal|Unknown|Unavailable|Unsupported|Invalid argument|Not found): )?"
    r"(?:(?P<kind>\w*(?:Error|Exception)): )?(?P<text>.*?)(?:\n\nAt:\n(?P<stack>.*))?",
    re.DOTALL,
)


_OWN_ERRORS = frozenset(errors.__all__)


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
        InternalError: A model could not be loaded; the last line of the message says why. Or
            tritonserver ended, or was stopped; then the message has the end of its log.
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
        if failure := load_failure(log_file):  # Triton would go on loading the other models
            raise InternalError(failure)
        if not waiting and _listens_on(running.pid, set(ports)):
            return
        if (status := running.poll()) is not None:
            tail = log_tail(log_file)
            kind = PortTakenError if _PORT_IN_USE in tail else InternalError
            raise kind(f"tritonserver ended with status {status} before it was ready:\n{tail}")
        if time.monotonic() > deadline:
            raise DeadlineExceededError(
                f"tritonserver was not ready within {timeout_s:g} s (LENSEMBLE_START_TIMEOUT_S); "
                "still waiting for "
                f"{', '.join(waiting) or 'its ports'}:\n{log_tail(log_file)}\n"
                f"{_stacks(running.pid, waiting, log_file)}"
            )
        time.sleep(_POLL_S)


def load_failure(log_file: Path) -> str:
    """Why a model could not be loaded; empty if none has failed.

    The first line and the last one name the model and the cause. If the cause is none of our own
    errors, which say what to do, the lines between have the stack.

    Args:
        log_file: tritonserver's log.
    """
    try:
        message = _FAILED_MODEL.search(log_file.read_text(errors="replace"))
        failure = _FAILURE.fullmatch(json.loads(message[1])) if message else None
    except (OSError, ValueError):
        return ""
    if failure is None:
        return ""
    kind = failure["kind"] or ""
    first, *more = (failure["text"].strip() or "no message").splitlines()
    cause = f"{failure['model']} could not be loaded: "
    if kind in _OWN_ERRORS:
        return cause + " ".join([first, *more])
    cause += f"{kind}: {first}" if kind else first
    details = [*more, *(failure["stack"] or "").rstrip().splitlines()]
    return "\n".join([cause, *details, cause] if details else [cause])


def log_tail(log_file: Path) -> str:
    """The errors in a log, and its last lines."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    errors = [line for line in lines[:-_TAIL_LINES] if line.startswith("E")]
    return "\n".join([*errors, *lines[-_TAIL_LINES:]])


def _is_ready(http_url: str, model: str) -> bool:
    url = f"{http_url}/v2/models/{model}/ready"
    try:
        with open_without_proxy(url, _HTTP_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
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
