"""Chooses which rows the encoder computes next: texts, pictures and bulk wait in separate lanes.

Triton hands requests to a model in batches, and the answers that `execute` returns leave all
together: a text that arrives with sixty pictures would wait for all of them, and the next text for
the whole batch. So requests are moved from Triton's batches into lanes (`execute` returns None for
them), and a thread runs one pass of the encoder after another over what is waiting. A request is
answered separately, through its response sender, when its last row is computed.

The lane that has had the least time fills a pass first, and the room that is left goes to the other
lanes (start-time fair queueing, Goyal et al. 1996). Texts take little time, so they are in the next
pass. No lane starves: while none of the three is empty, each gets a third of the time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic

from lensemble.scheduling.lanes import LANES, Lane, QueuedRequest, Result, Row
from lensemble.scheduling.wait_times import LaneWaitsWriter, Wait
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

# Longest expected duration of a pass with several rows, because new requests wait for the current
# pass. A pass of a single large row may take longer. Much shorter passes would be inefficient,
# because each reads all weights once (40 ms for 95 million weights on two cores; see
# docs/decisions.md).
MAX_PASS_S = 1.0
# Minimum seconds between two idle-time clean-ups.
CLEAN_UP_EVERY_S = 60.0

# If the next row of a request does not fit into the rest of a pass, the request is skipped. After
# this many skipped requests of a lane, the search for a smaller row ends.
_MAX_SKIPPED = 16
# Weight of the older passes in moving averages.
_OLD_WEIGHT = 0.8


@dataclass(frozen=True, slots=True)
class _StartedPass(Generic[Row, Result]):
    """A pass that was started and has not ended.

    Attributes:
        rows: each row's request, and the index of the row in it.
        started_at: time on the scheduler's clock.
        wait: waits for a result or an error for each row.
    """

    rows: list[tuple[QueuedRequest[Row, Result], int]]
    started_at: float
    wait: Callable[[], Sequence[Result | LensembleError]]


class LaneScheduler(Generic[Row, Result]):
    """Runs passes over the waiting rows, in a thread of its own.

    Its public methods must all be called by one thread, because nothing may be submitted while rows
    are computed immediately (`try_immediately`). Triton calls each model instance in one thread.

    Args:
        start_pass: starts to compute the rows of one pass; returns a function that waits for a
            result or an error for each row.
        around_pass: makes the context, such as `HeartbeatWriter.during_call`, in which each pass
            and each function of `run_between_passes` runs.
        after_pass: called after each pass and after each of these functions.
        lane_waits: where to write how long a new request would wait; None writes nothing.
        clean_up: called when nothing waits, at most every `CLEAN_UP_EVERY_S` and only after work.
        passes_in_flight: number of passes that may be started before the first of them has ended. A
            GPU computes one while the CPU prepares the next.
        clock: the clock, in seconds.

    Attributes:
        lanes: for each of `LANES`, its state.
    """

    def __init__(
        self,
        start_pass: Callable[[Sequence[Row]], Callable[[], Sequence[Result | LensembleError]]],
        *,
        around_pass: Callable[[], AbstractContextManager[None]],
        after_pass: Callable[[], None],
        lane_waits: LaneWaitsWriter | None = None,
        clean_up: Callable[[], None] | None = None,
        passes_in_flight: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes = {name: Lane() for name in LANES}
        self._start_pass, self._around_pass, self._after_pass = start_pass, around_pass, after_pass
        self._lane_waits, self._clean_up, self._clock = lane_waits, clean_up, clock
        self._passes_in_flight = passes_in_flight
        self._last_pass_ended = clock()
        self._cleaned_up_at = clock()
        self._worked_since = True  # since the last clean-up; loading a model is work, too
        self._callbacks: deque[Callable[[], None]] = deque()
        # The virtual time of fair queueing: `used_s` of the lane that filled the last pass first.
        self._virtual_s = 0.0
        # Seconds of a pass that uses its whole budget, as a moving average; 0 means not
        # known yet.
        self._full_pass_s = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self._busy = False
        self._answers: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pass_thread = threading.Thread(target=self._run, name="passes", daemon=True)
        # Another thread sends the answers, because sending waits for Triton, and the next pass
        # must not.
        self._answer_thread = threading.Thread(target=self._send, name="answers", daemon=True)
        self._pass_thread.start()
        self._answer_thread.start()

    def submit(self, request: QueuedRequest[Row, Result]) -> None:
        """Puts a request into its lane; its `on_done` is called in the thread of the answers."""
        with self._changed:
            request.arrived = self._clock()
            lane = self.lanes[request.lane]
            if not lane.requests:  # an empty lane must not claim time that it did not need
                lane.used_s = max(lane.used_s, self._virtual_s)
            lane.requests.append(request)
            lane.waiting_rows += len(request.rows)
            self._write_waits()
            self._changed.notify()

    def run_between_passes(self, callback: Callable[[], None]) -> None:
        """Lets the thread of the passes call a function before its next pass."""
        with self._changed:
            self._callbacks.append(callback)
            self._changed.notify()

    @contextmanager
    def try_immediately(self, costs: Sequence[tuple[float, ...]]) -> Iterator[bool]:
        """Allows the caller to compute rows now, in its own thread, instead of queueing them.

        That is allowed if nothing else waits or is computed, and if the rows fit into one pass. The
        time inside the `with` block is then measured as the time of a pass.

        Args:
            costs: for each row, its shares of a pass's budgets.

        Yields:
            Whether the rows may be computed.
        """
        with self._changed:
            idle = not (self._busy or self._callbacks or self._any_waiting())
        cost = _budget_share(costs)
        allowed = idle and (len(costs) < 2 or self._fits(cost))
        start = self._clock()
        yield allowed
        if allowed and costs:
            self._worked_since = True
            self._learn_pass_time(cost, self._clock() - start)

    def wait_s(self, name: str) -> float:
        """Seconds that a new request of a lane would wait, estimated from earlier passes."""
        lane = self.lanes[name]
        others = sum(bool(other.requests) for other in self.lanes.values() if other is not lane)
        return lane.waiting_rows * lane.row_s * (1 + others)

    def close(self) -> None:
        """Computes and answers what waits, then ends the threads. No request may come after it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pass_thread.join()
        self._answers.put(None)
        self._answer_thread.join()

    def _run(self) -> None:
        in_flight: deque[_StartedPass[Row, Result]] = deque()
        while True:
            with self._changed:
                self._busy = bool(in_flight)
                while not (in_flight or self._callbacks or self._any_waiting() or self._closed):
                    self._changed.wait(self._clean_up_if_due())
                self._busy = True
                callback = self._callbacks.popleft() if self._callbacks else None
                rows = [] if callback else self._next_pass()
                if callback is None and not rows and not in_flight:
                    return  # closed, and nothing waits
                if rows:  # they wait no longer, and nothing else may happen until the pass ends
                    self._write_waits()
            if callback is not None:
                with self._around_pass():
                    _call_safely(callback)
                _call_safely(self._after_pass)
                continue
            if rows:
                in_flight.append(self._start(rows))
            if not rows or len(in_flight) == self._passes_in_flight:
                self._finish(in_flight.popleft())
                self._worked_since = True
                _call_safely(self._after_pass)

    def _send(self) -> None:
        while (answer := self._answers.get()) is not None:
            _call_safely(answer)

    def _any_waiting(self) -> bool:
        return any(lane.requests for lane in self.lanes.values())

    def _clean_up_if_due(self) -> float:
        """Cleans up if it is due, and returns the seconds until it may be due again.

        The lock is held, so a request that arrives meanwhile waits for some milliseconds.
        """
        now = self._clock()
        if now - self._cleaned_up_at < CLEAN_UP_EVERY_S:
            return CLEAN_UP_EVERY_S - (now - self._cleaned_up_at)
        if self._clean_up is not None and self._worked_since:
            self._worked_since, self._cleaned_up_at = False, now
            _call_safely(self._clean_up)
        return CLEAN_UP_EVERY_S

    def _next_pass(self) -> list[tuple[QueuedRequest[Row, Result], int]]:
        """Takes as many rows as fit into one pass: (request, index of its row).

        The lane that has had the least time comes first. Within a lane, rows go in order, except
        that a smaller row may fill the room for which the next one is too large. The first row that
        was skipped starts the next pass that its lane fills first, whatever its size.
        """
        lanes = sorted(
            (lane for lane in self.lanes.values() if lane.requests), key=lambda lane: lane.used_s
        )
        rows: list[tuple[QueuedRequest[Row, Result], int]] = []
        used: list[float] = []  # of each budget
        for lane in lanes:
            if not rows:
                self._virtual_s = lane.used_s
            skipped = 0
            for request in lane.requests:
                while request.started_rows < len(request.rows):
                    cost = request.costs[request.started_rows]
                    total = [a + b for a, b in zip(used or [0.0] * len(cost), cost, strict=True)]
                    if rows and not self._fits(max(total)):
                        skipped += 1
                        break
                    used = total
                    rows.append((request, request.started_rows))
                    request.started_rows += 1
                    lane.waiting_rows -= 1
                    lane.started_rows += 1
                    lane.waited_s += self._clock() - request.arrived
                if skipped == _MAX_SKIPPED:
                    break
            lane.requests = deque(
                request for request in lane.requests if request.started_rows < len(request.rows)
            )
        return rows

    def _start(
        self, rows: list[tuple[QueuedRequest[Row, Result], int]]
    ) -> _StartedPass[Row, Result]:
        started_at = self._clock()
        with self._around_pass():
            try:
                wait = self._start_pass([request.rows[n] for request, n in rows])
            except Exception:
                logger.exception("a pass of %d rows failed", len(rows))
                wait = partial(_failed_results, len(rows))
        return _StartedPass(rows, started_at, wait)

    def _finish(self, started: _StartedPass[Row, Result]) -> None:
        rows = started.rows
        with self._around_pass():
            try:
                results = started.wait()
            except Exception:
                logger.exception("a pass of %d rows failed", len(rows))
                results = _failed_results(len(rows))
        ended_at = self._clock()
        # Two passes in flight share their time: each is charged from the end of the one before.
        charged_s = ended_at - max(started.started_at, self._last_pass_ended)
        pass_ms = (ended_at - started.started_at) * 1000
        self._last_pass_ended = ended_at
        with self._changed:
            cost = _budget_share([request.costs[n] for request, n in rows])
            self._learn_pass_time(cost, charged_s)
            self._charge_lanes(rows, charged_s)
            self._write_waits()
        for (request, _), result in zip(rows, results, strict=True):
            request.results.append(result)
            if len(request.results) == len(request.rows):
                self._answers.put(partial(request.on_done, request.results, pass_ms))

    def _charge_lanes(
        self, rows: list[tuple[QueuedRequest[Row, Result], int]], pass_s: float
    ) -> None:
        """Divides the time of a pass among the lanes that were in it, by what their rows cost."""
        costs: dict[str, list[float]] = {}
        for request, n in rows:
            costs.setdefault(request.lane, []).append(max(request.costs[n]))
        total = sum(map(sum, costs.values()))
        for name, lane_costs in costs.items():
            lane = self.lanes[name]
            share_s = pass_s * (sum(lane_costs) / total if total else 1 / len(costs))
            lane.used_s += share_s
            lane.passes_s += pass_s * len(lane_costs)
            lane.row_s = _average(lane.row_s, share_s / len(lane_costs))

    def _fits(self, cost: float) -> bool:
        """Whether rows of this cost fit into one pass, by its budgets and by the time they take."""
        return cost <= 1 and cost * self._full_pass_s <= MAX_PASS_S

    def _learn_pass_time(self, cost: float, pass_s: float) -> None:
        self._full_pass_s = _average(self._full_pass_s, pass_s / cost if cost else 0.0)

    def _write_waits(self) -> None:
        if self._lane_waits is not None:
            self._lane_waits.write(
                [Wait(self.wait_s(name), self.lanes[name].waiting_rows) for name in LANES]
            )


def _failed_results(count: int) -> list[LensembleError]:
    return [InternalError("the model failed; its log has the reason")] * count


def _budget_share(costs: Sequence[tuple[float, ...]]) -> float:
    """Adds up what the rows use of each budget, as a share of it, and returns the largest share."""
    return max(map(sum, zip(*costs, strict=True)), default=0.0)


def _average(old: float, new: float) -> float:
    """The moving average; 0 stands for no value yet."""
    return _OLD_WEIGHT * old + (1 - _OLD_WEIGHT) * new if old else new


def _call_safely(function: Callable[[], None]) -> None:
    """Calls a function, and logs its failure, which must not end the thread that calls it."""
    try:
        function()
    except Exception:
        logger.exception("%r failed", function)
