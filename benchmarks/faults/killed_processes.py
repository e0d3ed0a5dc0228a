"""Kills and stops processes of a server under load, and measures how long it is out of service."""

from __future__ import annotations

import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common.workloads import WORKLOADS
from lensemble.checkpoint import Checkpoint
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.settings import Settings
from lensemble_client import Client, Retry
from lensemble_contract.errors import LensembleError, NotFoundError

VICTIMS = ("preprocess", "qwen3_vl", "faiss", "store", "tritonserver")
ONCE = Retry(tries=1)
# Number of the item that `wait_until_served` writes; the writer never reaches it.
_PROBE = 2**32 - 1
_PROBE_INTERVAL_S = 0.05
_CALL_TIMEOUT_S = 2.0
_RECOVERY_TIMEOUT_S = 120.0
_WRITE_INTERVAL_S = 0.02

Figures = dict[str, Any]


@dataclass(slots=True)
class Recovery:
    """How a caller experienced one fault.

    Attributes:
        recovery_s: Seconds from the signal until an embedding, a search and a write were answered.
        errors: Class of error -> number of errors.
    """

    recovery_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


class WritingCaller:
    """A thread that keeps storing items, each under a new id.

    Args:
        url: URL of the server.
        profile: Hash of the server's profile.
        dimension: Length D of the vectors.

    Attributes:
        acknowledged: Numbers of the items whose write was acknowledged.
    """

    def __init__(self, url: str, profile: str, dimension: int) -> None:
        self.acknowledged: list[int] = []
        self._url, self._profile, self._dimension = url, profile, dimension
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> WritingCaller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with Client(self._url, timeout_s=_CALL_TIMEOUT_S, retry=ONCE) as client:
            while not self._ended.wait(_WRITE_INTERVAL_S):
                vector = vector_of(number, self._dimension)
                try:
                    client.upsert(
                        [f"w{number}"], vector, [{"number": number}], profile=self._profile
                    )
                    self.acknowledged.append(number)
                except LensembleError:
                    pass  # it may or may not be stored: it was not acknowledged
                number += 1

    def lost(self, client: Client) -> int:
        """Returns the number of acknowledged items that are missing or different."""
        return sum(not self._is_stored(client, number) for number in self.acknowledged)

    def _is_stored(self, client: Client, number: int) -> bool:
        try:
            stored = client.get(f"w{number}")
        except NotFoundError:
            return False
        expected = vector_of(number, self._dimension)[0]
        return stored.document == {"number": number} and np.allclose(
            stored.embedding, expected, atol=1e-6
        )


def vector_of(number: int, dimension: int) -> np.ndarray[Any, Any]:
    """Returns the vector of one of the writer's items: (1, D) float32, unit length."""
    drawn = np.random.default_rng(number).standard_normal((1, dimension))
    vector: np.ndarray[Any, Any] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return vector


def kill_processes(kills: int, folder: Path) -> Figures:
    """Kills random processes at random moments, and stops each kind of process once.

    Args:
        kills: Number of kills.
        folder: Folder for the index; it must not exist.

    Returns:
        `kills`, `lost_writes`, `acknowledged_writes`, `worst_recovery_s`, `left_behind` (shared-
        memory segments), and `faults` (what a caller sees of each kind of fault).
    """
    draw = random.Random(0)
    checkpoint = WORKLOADS["demo"].checkpoint()
    profile = Checkpoint.open(checkpoint).profile
    settings = Settings(checkpoint=checkpoint, index=folder, writes="on")
    faults_to_cause = [(draw.choice(VICTIMS), signal.SIGKILL) for _ in range(kills)]
    faults_to_cause += [(name, signal.SIGSTOP) for name in VICTIMS]
    faults: dict[str, list[Recovery]] = {}
    with Supervisor(TritonServer(settings)) as supervisor:
        server = supervisor.server
        with WritingCaller(server.grpc_url, profile.hash, profile.dimension) as writer:
            for turn, (name, number) in enumerate(faults_to_cause):
                time.sleep(draw.uniform(0, 1.5))
                fault = f"{signal.Signals(number).name} {name}"
                process = choose_process(server, name, draw)
                began = time.monotonic()
                process.send_signal(number)
                recovery = wait_until_served(
                    server.grpc_url, profile.hash, profile.dimension, began
                )
                faults.setdefault(fault, []).append(recovery)
                print(
                    f"{turn + 1} of {len(faults_to_cause)}: {fault}, {recovery.recovery_s:.1f} s",
                    file=sys.stderr,
                )
        with Client(server.grpc_url) as client:
            lost = writer.lost(client)
        restarts = dict(supervisor.state.restarts)
    worst = max(r.recovery_s for recoveries in faults.values() for r in recoveries)
    left_behind = list(Path("/dev/shm").glob("lensemble_*"))
    return {
        "kills": kills,
        "lost_writes": lost,
        "acknowledged_writes": len(writer.acknowledged),
        "worst_recovery_s": round(worst, 2),
        "restarts": restarts,
        "left_behind": len(left_behind),
        "faults": {fault: _summarize(recoveries) for fault, recoveries in sorted(faults.items())},
    }


def choose_process(server: TritonServer, name: str, draw: random.Random) -> psutil.Process:
    """Returns a random process of a model, or the process of tritonserver."""
    if name == "tritonserver":
        return psutil.Process(server.pid)
    beats = [beat.pid for beat in read_heartbeats(server.heartbeats) if beat.model == name]
    return psutil.Process(draw.choice(beats))


def wait_until_served(url: str, profile: str, dimension: int, began: float) -> Recovery:
    """Sends an embedding, a search and a write until all three are answered one after the other.

    Args:
        url: URL of the server.
        profile: Hash of the server's profile.
        dimension: Length D of the vectors.
        began: `time.monotonic()` at the fault.

    Raises:
        RuntimeError: The server did not recover within `_RECOVERY_TIMEOUT_S`.
    """
    recovery = Recovery()
    text = "corazón rojo"
    failed = False
    while True:
        with Client(url, timeout_s=_CALL_TIMEOUT_S, retry=ONCE) as client:
            try:
                client.embed(text)
                client.search(text, top_k=1)
                client.upsert(["probe"], vector_of(_PROBE, dimension), [{}], profile=profile)
            except LensembleError as error:
                recovery.errors[type(error).__name__] += 1
                failed = True
            else:
                # The first answers may come before the fault has an effect.
                if failed or time.monotonic() - began > _CALL_TIMEOUT_S:
                    recovery.recovery_s = time.monotonic() - began
                    return recovery
        if time.monotonic() - began > _RECOVERY_TIMEOUT_S:
            raise RuntimeError(
                f"the server did not recover within {_RECOVERY_TIMEOUT_S:g} s: {recovery.errors}"
            )
        time.sleep(_PROBE_INTERVAL_S)


def _summarize(recoveries: list[Recovery]) -> Figures:
    seconds = [recovery.recovery_s for recovery in recoveries]
    errors: Counter[str] = sum((recovery.errors for recovery in recoveries), Counter())
    return {
        "times": len(recoveries),
        "recovery_s": round(statistics.median(seconds), 2),
        "recovery_s_most": round(max(seconds), 2),
        "errors": dict(errors.most_common()),
    }
