"""What a peer is, and how its server is started in a process of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from lensemble.operations.tritonserver import LOOPBACK, free_port

Protocol = Literal["grpc", "json", "openai"]
"""How it is asked: `lensemble_client`, the small API of `wire`, or OpenAI's with chat messages."""

_START_S = 240
_STOP_S = 30
_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: Word for it in tables and ratios; ends with `_bf16` if it computes in that.
        dtype: `fp32` or `bf16`.
        protocol: How it is asked.
        command: What starts it; `{checkpoint}` and `{port}` stand for those.
        environment: Variables that it needs beside the caller's own.
    """

    name: str
    dtype: str
    protocol: Protocol
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def named(name: str, dtype: str) -> str:
    """The name of a peer in a precision: fp32, what all have, goes without saying."""
    return name if dtype == "fp32" else f"{name}_{dtype}"


@contextmanager
def serving(peer: Peer, checkpoint: Path) -> Iterator[str]:
    """Starts a peer on a free port of this machine, and stops it at the end.

    Args:
        peer: Which one.
        checkpoint: What it serves.

    Returns:
        Its URL, once `/health` answers.

    Raises:
        RuntimeError: It ended or was not ready in time; the message has its log's last lines.
    """
    port = free_port()
    values = {"checkpoint": str(checkpoint.resolve()), "port": str(port)}
    command = [part.format(**values) for part in peer.command]
    url = f"http://{LOOPBACK}:{port}"
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **peer.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not _is_up(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    tail = "".join(log.readlines()[-_LOG_LINES:])
                    raise RuntimeError(
                        f"{peer.name} did not start: status {process.poll()} within {_START_S} s; "
                        f"its log ends with\n{tail}"
                    )
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False
