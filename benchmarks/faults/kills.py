"""Somebody is killed or stopped under load, over and over: how long until it serves again?"""

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

from benchmarks.common.workload import WORKLOADS
from lensemble.checkpoint import Checkpoint
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling import heartbeat
from lensemble.settings import Settings
from lensemble_client import Client, Retry
from lensemble_contract.errors import LensembleError, NotFoundError

VICTIMS = ("preprocess", "qwen3_vl", "faiss", "store", "tritonserver")
NEVER = Retry(tries=1)
_PROBE = 2**32 - 1
"""Number of the prober's item, which the writer does not come to."""
_PROBE_S = 0.05
_CALL_S = 2.0
_GIVE_UP_S = 120.0
_WRITE_EVERY_S = 0.02

Figures = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """What a prober saw of one fault.

    Attributes:
        recovery_s: From the signal until an embedding, a search and a write were answered again.
        errors: Class of error -> how often.
    """

    recovery_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


class Writer:
    """A thread that stores an item with an id of its own again and again.

    Attributes:
        acknowledged: Number of each item whose write was answered.
    """

    def __init__(self, url: str, profile: str, dimension: int) -> None:
        self.acknowledged: list[int] = []
        self._url, self._profile, self._dimension = url, profile, dimension
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with Client(self._url, timeout_s=_CALL_S, retry=NEVER) as client:
            while not self._ended.wait(_WRITE_EVERY_S):
                vector = vector_of(number, self._dimension)
                try:
                    client.upsert(
                        [f"w{number}"], vector, [{"number": number}], profile=self._profile
                    )
                    self.acknowledged.append(number)
                except LensembleError:
                    pass  # it is there or not: nobody was told
                number += 1

    def lost(self, client: Client) -> int:
        """How many acknowledged items are not there, or are others."""
        return sum(not self._is_there(client, number) for number in self.acknowledged)

    def _is_there(self, client: Client, number: int) -> bool:
        try:
            stored = client.get(f"w{number}")
        except NotFoundError:
            return False
        expected = vector_of(number, self._dimension)[0]
        return stored.document == {"number": number} and np.allclose(
            stored.embedding, expected, atol=1e-6
        )


def vector_of(number: int, dimension: int) -> np.ndarray[Any, Any]:
    """(1, D) float32, unit length, that of an item of the writer."""
    made = np.random.default_rng(number).standard_normal((1, dimension))
    vector: np.ndarray[Any, Any] = (made / np.linalg.norm(made)).astype(np.float32)
    return vector


def run(kills: int, folder: Path) -> Figures:
    """Kills somebody so often, at random moments, and stops each kind of process once.

    Args:
        kills: How often somebody is killed.
        folder: For the index; must not exist.

    Returns:
        `kills`, `lost_writes`, `acknowledged_writes`, `worst_recovery_s`, `left_behind` (shared
        memory), and by fault what a caller sees.
    """
    draw = random.Random(0)
    checkpoint = WORKLOADS["demo"].checkpoint()
    profile = Checkpoint.open(checkpoint).profile
    settings = Settings(checkpoint=checkpoint, index=folder, writes="on")
    plan = [(draw.choice(VICTIMS), signal.SIGKILL) for _ in range(kills)]
    plan += [(name, signal.SIGSTOP) for name in VICTIMS]
    faults: dict[str, list[Seen]] = {}
    with Supervisor(TritonServer(settings)) as watching:
        server = watching.server
        with Writer(server.grpc_url, profile.hash, profile.dimension) as writer:
            for turn, (name, number) in enumerate(plan):
                time.sleep(draw.uniform(0, 1.5))
                fault = f"{signal.Signals(number).name} {name}"
                process = victim(server, name, draw)
                began = time.monotonic()
                process.send_signal(number)
                seen = probe(server.grpc_url, profile.hash, profile.dimension, began)
                faults.setdefault(fault, []).append(seen)
                print(
                    f"{turn + 1} of {len(plan)}: {fault}, {seen.recovery_s:.1f} s", file=sys.stderr
                )
        with Client(server.grpc_url) as client:
            lost = writer.lost(client)
        restarts = dict(watching.state.restarts)
    worst = max(one.recovery_s for every in faults.values() for one in every)
    left = list(Path("/dev/shm").glob("lensemble_*"))
    return {
        "kills": kills,
        "lost_writes": lost,
        "acknowledged_writes": len(writer.acknowledged),
        "worst_recovery_s": round(worst, 2),
        "restarts": restarts,
        "left_behind": len(left),
        "faults": {fault: _summed(seen) for fault, seen in sorted(faults.items())},
    }


def victim(server: TritonServer, name: str, draw: random.Random) -> psutil.Process:
    """The process, or one of the processes, of a model; or tritonserver's."""
    if name == "tritonserver":
        return psutil.Process(server.pid)
    beats = [beat.pid for beat in heartbeat.read(server.heartbeats) if beat.model == name]
    return psutil.Process(draw.choice(beats))


def probe(url: str, profile: str, dimension: int, began: float) -> Seen:
    """Asks for an embedding, a search and a write until all are answered in one go.

    Args:
        url: Of the server.
        profile: Hash that the write is made under.
        dimension: Of its vector.
        began: `time.monotonic()` of the fault.

    Raises:
        RuntimeError: It does not serve again.
    """
    seen = Seen()
    text = "corazón rojo"
    failed = False
    while True:
        with Client(url, timeout_s=_CALL_S, retry=NEVER) as client:
            try:
                client.embed(text)
                client.search(text, top_k=1)
                client.upsert(["probe"], vector_of(_PROBE, dimension), [{}], profile=profile)
            except LensembleError as error:
                seen.errors[type(error).__name__] += 1
                failed = True
            else:
                # The first answers may come from before the fault shows.
                if failed or time.monotonic() - began > _CALL_S:
                    seen.recovery_s = time.monotonic() - began
                    return seen
        if time.monotonic() - began > _GIVE_UP_S:
            raise RuntimeError(f"it does not serve again within {_GIVE_UP_S:g} s: {seen.errors}")
        time.sleep(_PROBE_S)


def _summed(every: list[Seen]) -> Figures:
    seconds = [one.recovery_s for one in every]
    errors: Counter[str] = sum((one.errors for one in every), Counter())
    return {
        "times": len(every),
        "recovery_s": round(statistics.median(seconds), 2),
        "recovery_s_most": round(max(seconds), 2),
        "errors": dict(errors.most_common()),
    }
