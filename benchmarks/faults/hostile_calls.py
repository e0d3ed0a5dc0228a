"""Sends hostile calls: each must get a typed answer, and must not affect the calls around it."""

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

from benchmarks.common.workloads import WORKLOADS
from benchmarks.faults.hostile_inputs import HostileCall, hostile_calls
from lensemble.checkpoint import Checkpoint
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.scheduling.lane_scheduler import CLEAN_UP_EVERY_S
from lensemble.settings import Settings
from lensemble_client import Client, Item, Retry
from lensemble_contract.errors import InternalError, LensembleError

CALLERS = 8
# Largest difference between components of a valid item's vectors in different batches, in fp32.
TOLERANCE = 1e-5
# Number of calls before memory is measured for the first time.
_SETTLING_CALLS = 500

Figures = dict[str, Any]


@dataclass(slots=True)
class CallOutcomes:
    """The outcomes of all calls.

    Attributes:
        sent: Number of hostile calls.
        answers: Class of error, or `vector` -> number of answers.
        wrong: Kind of call -> what was wrong with its first wrong answer.
        affected: Number of valid items that failed or whose vector was different.
    """

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)
    affected: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, answer: str, wrong: str | None) -> None:
        """Adds the answer of one hostile call."""
        with self.lock:
            self.sent += 1
            self.answers[answer] += 1
            if wrong is not None:
                self.wrong.setdefault(kind, wrong)


def send_hostile_calls(
    count: int, folder: Path, seed: int = 0, *, measure_rest: bool = False
) -> Figures:
    """Sends hostile calls, with valid ones among them.

    Args:
        count: Number of hostile calls.
        folder: Folder for the index; it must not exist.
        seed: Seed of the calls.
        measure_rest: Whether to wait for two minutes at the end, and to measure memory again.

    Returns:
        `bad_inputs`, `workers_died`, `sound_touched` (valid items that were affected), `answers`,
        `wrong`, `growth` (of the memory of the server's processes from the first
        `_SETTLING_CALLS` calls to the end), and with `measure_rest` `growth_after_rest` (to two
        minutes after the end).
    """
    checkpoint = WORKLOADS["demo"].checkpoint()
    dimension = Checkpoint.open(checkpoint).profile.dimension
    valid = WORKLOADS["demo"].items("mixed", 12)
    outcomes = CallOutcomes()
    # No admission limit: on a busy machine a valid item may be refused because the encoder is slow,
    # which says nothing about the hostile call before it (benchmarks.serving.overload measures it).
    settings = Settings(
        checkpoint=checkpoint, index=folder, writes="on", dtype="fp32", max_wait_s=0.0
    )
    with Supervisor(TritonServer(settings)) as up:
        url = up.server.grpc_url
        with Client(url) as client:
            client.ingest("probe", "a red car", document={"year": 2019})
            expected = client.embed_many(valid)
        calls = hostile_calls(seed, dimension)
        first = min(count, _SETTLING_CALLS)
        _send(url, itertools.islice(calls, first), valid, expected, outcomes)
        before = _resident(up.server)
        _send(url, itertools.islice(calls, count - first), valid, expected, outcomes)
        after = _resident(up.server)
        growth = {"growth": _growth(before, after)}
        if measure_rest:
            time.sleep(2 * CLEAN_UP_EVERY_S + 5)  # after this long an idle encoder releases memory
            growth["growth_after_rest"] = _growth(before, _resident(up.server))
        died = sum(up.state.restarts.values())
    return {
        "bad_inputs": outcomes.sent,
        "workers_died": died,
        "sound_touched": outcomes.affected,
        "answers": dict(outcomes.answers.most_common()),
        "wrong": outcomes.wrong,
        **growth,
    }


def _growth(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    return {name: round(after[name] / before[name] - 1, 4) for name in before if name in after}


def _send(
    url: str, calls: Any, valid: list[Item], expected: list[Any], outcomes: CallOutcomes
) -> None:
    """Sends all calls from concurrent callers; each sends a valid item after every hostile call."""
    numbered, lock = iter(enumerate(calls)), threading.Lock()

    def caller() -> None:
        with Client(url, timeout_s=600, retry=Retry(tries=1)) as client:
            while True:
                with lock:
                    number, call = next(numbered, (0, None))
                if call is None:
                    return
                answer, wrong = judge_answer(call, client)
                outcomes.add(call.kind, answer, wrong)
                place = number % len(valid)
                if not _same(client, valid[place], expected[place]):
                    with outcomes.lock:
                        outcomes.affected += 1
                if number % 1000 == 999:
                    print(f"{number + 1} hostile calls", file=sys.stderr)

    with ThreadPoolExecutor(CALLERS) as pool:
        for future in [pool.submit(caller) for _ in range(CALLERS)]:
            future.result()


def judge_answer(call: HostileCall, client: Client) -> tuple[str, str | None]:
    """Returns the class of the answer, and what is wrong with it; None if it is right."""
    try:
        answer = call.call(client)
    except LensembleError as error:
        name = type(error).__name__
        if isinstance(error, InternalError):
            return name, str(error)
        return name, None if str(error).strip() else "the error has no message"
    except Exception as error:
        return type(error).__name__, f"not a LensembleError: {error!r}"
    if isinstance(answer, np.ndarray):
        length = float(np.linalg.norm(answer))
        if not np.isfinite(answer).all() or abs(length - 1) > 1e-3:
            return "vector", f"of length {length}"
    return "vector", None


def _same(client: Client, item: Item, expected: Any) -> bool:
    try:
        vector = client.embed(item.text, image=list(item.images) or None)
    except LensembleError:
        return False
    return bool(np.abs(vector - expected).max() <= TOLERANCE)


def _resident(server: TritonServer) -> dict[str, int]:
    """Returns name of a process -> resident bytes."""
    resident = {"tritonserver": psutil.Process(server.pid).memory_info().rss}
    for beat in read_heartbeats(server.heartbeats):
        rss = psutil.Process(beat.pid).memory_info().rss
        resident[beat.model] = resident.get(beat.model, 0) + rss
    return resident
