"""Hostile calls by the thousand: each has a typed answer, and the calls beside it do not notice."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common.workload import WORKLOADS
from benchmarks.faults.hostile import Hostile, hostile
from lensemble.checkpoint import Checkpoint
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling import heartbeat
from lensemble.scheduling.lanes import REST_S
from lensemble.settings import Settings
from lensemble_client import Client, Item, Retry
from lensemble_contract.errors import InternalError, LensembleError

CALLERS = 8
TOLERANCE = 1e-5
"""Between components of a sound item's vectors in different batches, in fp32."""
_SETTLE = 500
"""Calls before memory is looked at for the first time."""

Figures = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What came of the calls.

    Attributes:
        asked: Hostile calls.
        answers: Class of error, or `vector` -> how often.
        wrong: Kind of call -> what was wrong with its answer; at most a few.
        touched: Sound items whose vector was another, or that failed.
    """

    asked: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)
    touched: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, answer: str, wrong: str | None) -> None:
        """One hostile call's answer."""
        with self.lock:
            self.asked += 1
            self.answers[answer] += 1
            if wrong is not None:
                self.wrong.setdefault(kind, wrong)


def run(count: int, folder: Path, seed: int = 0) -> Figures:
    """Sends hostile calls, with sound ones among them.

    Args:
        count: Of hostile calls.
        folder: For the index; must not exist.
        seed: Of what is sent.

    Returns:
        `bad_inputs`, `workers_died`, `sound_touched`, `answers`, `wrong`, `growth` (of the server's
        processes' memory from the first `_SETTLE` calls to the end), `growth_after_rest` (to two
        minutes after it).
    """
    checkpoint = WORKLOADS["demo"].checkpoint()
    dimension = Checkpoint.open(checkpoint).profile.dimension
    sound = WORKLOADS["demo"].items("mixed", 12)
    tally = Tally()
    settings = Settings(checkpoint=checkpoint, index=folder, writes="on", dtype="fp32")
    with Supervisor(TritonServer(settings)) as up:
        url = up.server.grpc_url
        with Client(url) as client:
            client.ingest("probe", "a red car", document={"year": 2019})
            expected = client.embed_many(sound)
        calls = hostile(seed, dimension)
        first = min(count, _SETTLE)
        _send(url, itertools.islice(calls, first), sound, expected, tally)
        before = _resident(up.server)
        _send(url, itertools.islice(calls, count - first), sound, expected, tally)
        after = _resident(up.server)
        time.sleep(2 * REST_S + 5)  # after which the encoder gives back what it kept
        rested = _resident(up.server)
        died = sum(up.state.restarts.values())
    return {
        "bad_inputs": tally.asked,
        "workers_died": died,
        "sound_touched": tally.touched,
        "answers": dict(tally.answers.most_common()),
        "wrong": tally.wrong,
        "growth": _growth(before, after),
        "growth_after_rest": _growth(before, rested),
    }


def _growth(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    return {name: round(after[name] / before[name] - 1, 4) for name in before if name in after}


def _send(url: str, calls: Any, sound: list[Item], expected: list[Any], tally: Tally) -> None:
    """All calls, by some callers at a time; each sends a sound item after every hostile one."""
    turns, lock = iter(enumerate(calls)), threading.Lock()

    def caller() -> None:
        with Client(url, timeout_s=60, retry=Retry(tries=1)) as client:
            while True:
                with lock:
                    number, call = next(turns, (0, None))
                if call is None:
                    return
                answer, wrong = judged(call, client)
                tally.note(call.kind, answer, wrong)
                place = number % len(sound)
                if not _same(client, sound[place], expected[place]):
                    with tally.lock:
                        tally.touched += 1
                if number % 1000 == 999:
                    print(f"{number + 1} hostile calls", file=sys.stderr)

    with ThreadPoolExecutor(CALLERS) as pool:
        for done in [pool.submit(caller) for _ in range(CALLERS)]:
            done.result()


def judged(call: Hostile, client: Client) -> tuple[str, str | None]:
    """The class of the answer, and what is wrong with it if anything is."""
    try:
        answer = call.call(client)
    except LensembleError as error:
        name = type(error).__name__
        if isinstance(error, InternalError):
            return name, str(error)
        return name, None if str(error).strip() else "the error says nothing"
    except Exception as error:
        return type(error).__name__, f"no LensembleError: {error!r}"
    if isinstance(answer, np.ndarray):
        length = float(np.linalg.norm(answer))
        if not np.isfinite(answer).all() or abs(length - 1) > 1e-3:
            return "vector", f"of length {length}"
    return "vector", None


def _same(client: Client, item: Item, expected: Any) -> bool:
    try:
        found = client.embed(item.text, image=list(item.images) or None)
    except LensembleError:
        return False
    return bool(np.abs(found - expected).max() <= TOLERANCE)


def _resident(server: TritonServer) -> dict[str, int]:
    """Bytes by process."""
    found = {"tritonserver": psutil.Process(server.pid).memory_info().rss}
    for beat in heartbeat.read(server.heartbeats):
        rss = psutil.Process(beat.pid).memory_info().rss
        found[beat.model] = found.get(beat.model, 0) + rss
    return found
