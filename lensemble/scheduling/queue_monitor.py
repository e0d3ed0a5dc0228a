"""Estimates how long a new request would wait in Triton's own queues.

The supervisor reads from Triton's metrics how many requests wait for `preprocess` and for the
encoder, and how many are finished per second while some wait. By Little's law (J. Little 1961, "A
Proof for the Queuing Formula L = lambda W"), a new request waits for waiting / rate seconds.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from lensemble.scheduling.wait_times import TritonWaitWriter, Wait
from lensemble_contract import contract
from lensemble_contract.direct_connections import open_without_proxy

# Seconds between two readings of the metrics, while requests wait and while none do. A reading
# costs Triton one or two milliseconds.
POLL_S = 0.05
IDLE_POLL_S = 0.25

_HTTP_TIMEOUT_S = 0.25
# The rate is measured over about this many seconds before now.
_WINDOW_S = 5.0
_MODELS = (contract.PREPROCESS.name, contract.QWEN3_VL.name)
# A regular expression instead of `prometheus_client.parser`, which parses all families and would
# take several milliseconds twenty times a second.
_METRIC = re.compile(
    r'^nv_inference_(pending_request_count|request_success)\{model="(\w+)"[^}]*\} (\d+)', re.M
)


class QueueMonitor:
    """Reads Triton's metrics and writes the wait, in a thread of its own; a context manager.

    Args:
        url: URL of Triton's metrics.
        folder: folder of the shared files; `AdmissionControl` reads the wait there.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._estimates = {name: WaitEstimate() for name in _MODELS}
        self._file = TritonWaitWriter(folder)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue-monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_S if self._waiting else IDLE_POLL_S):
            try:
                with open_without_proxy(self._url, _HTTP_TIMEOUT_S) as answer:
                    text = answer.read().decode()
            except (OSError, ValueError, http.client.HTTPException):
                continue  # the last figures become stale
            self.update(time.monotonic(), queue_counts(text))

    def update(self, now: float, counts: Mapping[str, tuple[int, int]]) -> None:
        """Takes one reading of the metrics into account.

        Args:
            now: `time.monotonic()`.
            counts: for each model, the numbers of waiting and of finished requests.
        """
        for name, estimate in self._estimates.items():
            if name in counts:
                estimate.update(now, *counts[name])
        seconds = sum(estimate.wait_s for estimate in self._estimates.values())
        self._file.write(now, Wait(seconds, self._waiting))

    @property
    def _waiting(self) -> int:
        return sum(estimate.waiting for estimate in self._estimates.values())


class WaitEstimate:
    """Estimates the wait in the queue of one model.

    A slow model finishes its requests in batches that are seconds apart. So the rate is measured
    over whole periods, each from the end of one batch to the end of the next.

    Attributes:
        waiting: number of waiting requests at the last reading.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._last: tuple[float, int] | None = None
        # Periods in which requests waited all the time: (seconds, requests finished at its end).
        self._periods: deque[tuple[float, int]] = deque()
        # Seconds of the period that has not ended yet.
        self._open_s = 0.0

    def update(self, now: float, waiting: int, finished: int) -> None:
        """Takes one reading into account.

        Args:
            now: seconds of any clock.
            waiting: number of waiting requests.
            finished: number of requests that were finished since the server's start.
        """
        if self._last is not None and self.waiting and waiting:
            before, finished_before = self._last
            self._open_s += now - before
            if finished > finished_before:
                self._periods.append((self._open_s, finished - finished_before))
                self._open_s = 0.0
        elif not waiting:
            self._open_s = 0.0
        while len(self._periods) > 1 and self._seconds - self._periods[0][0] >= _WINDOW_S:
            self._periods.popleft()
        self.waiting, self._last = waiting, (now, finished)

    @property
    def _seconds(self) -> float:
        return sum(seconds for seconds, _ in self._periods)

    @property
    def wait_s(self) -> float:
        """Seconds that a new request would wait.

        It is never less than the time since a request was finished last, which is all that is
        known before the first batch ends.
        """
        if not self.waiting:
            return 0.0
        finished = sum(count for _, count in self._periods)
        by_rate = self.waiting * self._seconds / finished if finished else 0.0
        return max(by_rate, self._open_s)


def queue_counts(text: str) -> dict[str, tuple[int, int]]:
    """Numbers of waiting and of successfully finished requests, for each model.

    Args:
        text: Triton's metrics.
    """
    values: dict[str, dict[str, int]] = {}
    for metric, model, value in _METRIC.findall(text):
        if model in _MODELS:
            values.setdefault(model, {})[metric] = int(value)
    return {
        model: (metrics["pending_request_count"], metrics["request_success"])
        for model, metrics in values.items()
        if len(metrics) == 2
    }
