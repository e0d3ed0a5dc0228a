"""Who is computed next: texts, pictures and bulk wait in lanes of their own.

Triton hands requests to a model in batches, and takes no answer before the last of a batch is
there: a text that came with sixty pictures waits for all of them, and the next text for the whole
batch. So requests are taken over as they come, and a thread makes one pass of the encoder after the
other of what waits then. The lane that has had the least of the time fills a pass first
(start-time fair queueing, Goyal et al. 1996), what room is left goes to the others. So texts, which
take little, are in the next pass, and nobody starves: with all lanes full each has a third of the
time. A request is answered as soon as its last row is computed.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from lensemble.scheduling.admission import LANES, Board
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

SLICE_S = 1.0
"""What a pass of several rows may take: nobody's turn is further away than one. In shorter ones
reading the weights, 40 ms for 95 million on two cores, counts: docs/decisions.md."""
REST_S = 60.0
"""At least between two times that are taken, when nothing waits, for what makes the next pass
slower."""
_PASSED = 16
"""Jobs of a lane that may be too large for what is left of a pass, before no smaller one is looked
for."""
_MEMORY = 0.8
"""Of the older passes' weight in what a row takes, for each new one."""


@dataclass(slots=True, eq=False)
class Job(Generic[Row, Result]):
    """One request.

    Attributes:
        rows: Its rows; none for a job that is done by itself.
        costs: Of each row, what it takes of a pass's budgets; see `Lanes`.
        lane: One of `LANES`.
        done: Called with the rows' results, and milliseconds of the last pass.
        since: `time.monotonic()` of when it came.
    """

    rows: Sequence[Row]
    costs: Sequence[tuple[float, ...]]
    lane: str
    done: Callable[[list[Result | LensembleError], float], None]
    since: float = field(default_factory=time.monotonic)
    results: list[Result | LensembleError] = field(default_factory=list)
    begun: int = 0
    """Rows that are in passes or were."""


@dataclass(slots=True)
class Lane:
    """What waits in one lane, and what it has had.

    Attributes:
        jobs: Whose rows are not all in passes.
        rows: Of them, that wait.
        used_s: Seconds of passes that it has had, as the queueing counts them.
        row_s: Seconds that a row takes, of late; 0 before the first.
        waited_s: Sum over the rows that were begun.
        passes_s: Sum over the rows that are done, each with all of its pass.
        begun: Their number.
    """

    jobs: deque[Job[Any, Any]] = field(default_factory=deque)
    rows: int = 0
    used_s: float = 0.0
    row_s: float = 0.0
    waited_s: float = 0.0
    passes_s: float = 0.0
    begun: int = 0


class Lanes(Generic[Row, Result]):
    """Makes passes of what waits, in a thread of its own.

    Args:
        run: Rows of one pass -> for each its result or its error.
        around: A context for each pass; notes that the process works.
        after: Called after each pass.
        board: Where to write down how long a new request would wait.
        rest: Called when nothing waits, after work and `REST_S` after the last time.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Row]], Sequence[Result | LensembleError]],
        *,
        around: Callable[[], Any],
        after: Callable[[], None],
        board: Board | None = None,
        rest: Callable[[], None] | None = None,
    ) -> None:
        self._run, self._around, self._after = run, around, after
        self._board, self._rest = board, rest
        self._rested_at = time.monotonic()
        self._worked = True
        """Since the last rest; loading a model is work, too."""
        self.lanes = {name: Lane() for name in LANES}
        self._asides: deque[Callable[[], None]] = deque()
        self._now_s = 0.0
        """The queueing's clock: what the lane of the last pass had had when it began."""
        self._changed = threading.Condition()
        self._closed = False
        self._working = False
        self._unit_s = 0.0
        """Seconds that a pass takes which uses all of its budget, of late; 0 is not known."""
        self._done: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._work, "passes"), (self._answer, "answers"))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job[Row, Result]) -> None:
        """Takes a request over; its `done` is called in a thread of the answers.

        Args:
            job: With at least one row.
        """
        with self._changed:
            lane = self.lanes[job.lane]
            if not lane.jobs:  # it has no right to the time in which it wanted none
                lane.used_s = max(lane.used_s, self._now_s)
            lane.jobs.append(job)
            lane.rows += len(job.rows)
            self._write_down()
            self._changed.notify()

    def aside(self, work: Callable[[], None]) -> None:
        """Has something done by the thread of the passes, before the next one."""
        with self._changed:
            self._asides.append(work)
            self._changed.notify()

    def close(self) -> None:
        """Finishes what waits, then ends; takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        passes, answers = self._threads
        passes.join()
        self._done.put(None)
        answers.join()

    @contextmanager
    def at_once(self, costs: Sequence[tuple[float, ...]]) -> Iterator[bool]:
        """Whether rows may be computed now, in the caller's thread, instead of in a lane.

        They may if nothing else waits or is computed, and they are one pass.

        Args:
            costs: Of the rows.

        Yields:
            Whether; if so, the time is taken for that of a pass.
        """
        with self._changed:
            idle = not (self._working or self._asides or self._any())
        whole = _sum(costs)
        may = idle and (len(costs) < 2 or self._fits(whole))
        began = time.monotonic()
        yield may
        if may and costs:
            self._worked = True
            self._learn(whole, time.monotonic() - began)

    def _fits(self, cost: float) -> bool:
        """Whether rows are one pass, by their part of the budget and by the time it takes."""
        return cost <= 1 and cost * self._unit_s <= SLICE_S

    def _learn(self, cost: float, took: float) -> None:
        unit_s = took / cost if cost else 0.0
        self._unit_s = unit_s if not self._unit_s else _smooth(self._unit_s, unit_s)

    def wait_s(self, name: str) -> float:
        """Seconds that a new request of a lane would wait, as far as passes have shown."""
        lane = self.lanes[name]
        others = sum(bool(other.jobs) for other in self.lanes.values() if other is not lane)
        return lane.rows * lane.row_s * (1 + others)

    def _write_down(self) -> None:
        if self._board is not None:
            self._board.write([(self.wait_s(name), float(self.lanes[name].rows)) for name in LANES])

    def waiting(self, name: str) -> int:
        """Rows that wait in a lane."""
        return self.lanes[name].rows

    def _work(self) -> None:
        while True:
            with self._changed:
                self._working = False
                while not (self._asides or self._any() or self._closed):
                    self._changed.wait(self._rest_if_due())
                self._working = True
                aside = self._asides.popleft() if self._asides else None
                taken = [] if aside else self._take()
                if aside is None and not taken:
                    return  # closed, and nothing waits
            if aside is not None:
                with self._around():
                    _safely(aside)
            else:
                self._pass(taken)
                self._worked = True
            _safely(self._after)

    def _rest_if_due(self) -> float:
        """Seconds until it may be due again.

        Under the lock: a request that comes now waits for the milliseconds that it takes.
        """
        now = time.monotonic()
        if now - self._rested_at < REST_S:
            return REST_S - (now - self._rested_at)
        if self._rest is not None and self._worked:
            self._worked, self._rested_at = False, now
            _safely(self._rest)
        return REST_S

    def _answer(self) -> None:
        """Sends answers: each waits for Triton, and the next pass need not."""
        while (send := self._done.get()) is not None:
            _safely(send)

    def _any(self) -> bool:
        return any(lane.jobs for lane in self.lanes.values())

    def _take(self) -> list[tuple[Job[Row, Result], int]]:
        """Rows for one pass: (job, row). As many as fit, first of the lane that has had least.

        Within a lane in order, but a smaller row may fill what the next one is too large for; that
        one goes in the next pass that its lane fills first, whatever its size.
        """
        waiting = sorted(
            (lane for lane in self.lanes.values() if lane.jobs), key=lambda lane: lane.used_s
        )
        taken: list[tuple[Job[Row, Result], int]] = []
        spent: list[float] = []
        for lane in waiting:
            if not taken:
                self._now_s = lane.used_s
            passed = 0
            for job in lane.jobs:
                while job.begun < len(job.rows):
                    cost = job.costs[job.begun]
                    more = [a + b for a, b in zip(spent or [0.0] * len(cost), cost, strict=True)]
                    if taken and not self._fits(max(more)):
                        passed += 1  # a smaller one may fill the pass; this is the next one's
                        break
                    spent = more
                    taken.append((job, job.begun))
                    job.begun += 1
                    lane.rows -= 1
                    lane.begun += 1
                    lane.waited_s += time.monotonic() - job.since
                if passed == _PASSED:
                    break
            lane.jobs = deque(job for job in lane.jobs if job.begun < len(job.rows))
        return taken

    def _pass(self, taken: list[tuple[Job[Row, Result], int]]) -> None:
        began = time.monotonic()
        rows = [job.rows[n] for job, n in taken]
        with self._around():
            try:
                results: Sequence[Result | LensembleError] = self._run(rows)
            except Exception:
                logger.exception("a pass of %d rows failed", len(rows))
                results = [InternalError("the model failed; its log says why")] * len(rows)
        took = time.monotonic() - began
        with self._changed:
            self._charge(taken, took)
            self._write_down()
        for (job, _), result in zip(taken, results, strict=True):
            job.results.append(result)
            if len(job.results) == len(job.rows):
                self._done.put(partial(job.done, job.results, took * 1000))

    def _charge(self, taken: list[tuple[Job[Row, Result], int]], took: float) -> None:
        """Counts a pass's seconds for the lanes that were in it, by what their rows cost."""
        costs: dict[str, list[float]] = {}
        for job, n in taken:
            costs.setdefault(job.lane, []).append(max(job.costs[n]))
        whole = sum(map(sum, costs.values()))
        self._learn(_sum([job.costs[n] for job, n in taken]), took)
        for name, each in costs.items():
            lane = self.lanes[name]
            part_s = took * (sum(each) / whole if whole else 1 / len(costs))
            lane.used_s += part_s
            lane.passes_s += took * len(each)
            row_s = part_s / len(each)
            lane.row_s = row_s if not lane.row_s else _smooth(lane.row_s, row_s)


def _sum(costs: Sequence[tuple[float, ...]]) -> float:
    """Part of the budget that rows use which is used most."""
    return max(map(sum, zip(*costs, strict=True)), default=0.0)


def _smooth(old: float, new: float) -> float:
    return _MEMORY * old + (1 - _MEMORY) * new


def _safely(work: Callable[[], None]) -> None:
    """What is done for one request must not end the thread that works for all."""
    try:
        work()
    except Exception:
        logger.exception("a request could not be answered")
