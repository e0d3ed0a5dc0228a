"""A peer, and how its server is started in a process of its own."""

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

from lensemble.operations.ports import LOOPBACK, free_port

# `lensemble_client`, the small API of `http_api`, or OpenAI's API with chat messages.
Protocol = Literal["grpc", "json", "openai"]

_START_S = 240
_STOP_S = 30
_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: Name in tables and ratios; it ends with `_bf16` if the server computes in bf16.
        dtype: Precision, `fp32` or `bf16`.
        protocol: Protocol of the server.
        command: Command that starts it, with `{checkpoint}` and `{port}` as placeholders.
        environment: Environment variables that it needs in addition.
    """

    name: str
    dtype: str
    protocol: Protocol
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def name_with_dtype(name: str, dtype: str) -> str:
    """Returns the name of a peer in a precision; fp32, which all peers have, is not mentioned."""
    return name if dtype == "fp32" else f"{name}_{dtype}"


@contextmanager
def running_peer(peer: Peer, checkpoint: Path) -> Iterator[str]:
    """Starts a peer on a free port of this machine, and stops it when the block is left.

    Args:
        peer: Peer to start.
        checkpoint: Folder of the checkpoint to serve.

    Yields:
        URL of the peer, once `/health` answers.

    Raises:
        RuntimeError: The peer ended or was not ready in time; the message contains the end of its
            log.
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
                    log_end = "".join(log.readlines()[-_LOG_LINES:])
                    raise RuntimeError(
                        f"{peer.name} did not start within {_START_S} s (status {process.poll()}); "
                        f"the end of its log:\n{log_end}"
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
