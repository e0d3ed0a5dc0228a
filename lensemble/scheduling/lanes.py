"""The encoder's lanes: one queue each for texts, pictures and bulk requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lensemble_contract.errors import LensembleError

Row = TypeVar("Row")
Result = TypeVar("Result")

TEXT, PICTURE, BULK = "text", "picture", "bulk"
LANES = (TEXT, PICTURE, BULK)

# Requests with more rows than this wait in the bulk lane.
BULK_ROWS = 8


def lane_of(row_count: int, *, pictures: bool) -> str:
    """The lane of a request.

    Args:
        row_count: number of rows of the request.
        pictures: whether any row has a picture.
    """
    if row_count > BULK_ROWS:
        return BULK
    return PICTURE if pictures else TEXT


@dataclass(slots=True, eq=False)
class QueuedRequest(Generic[Row, Result]):
    """One request that waits in a lane.

    Attributes:
        rows: the rows of the request, at least one.
        costs: for each row, the shares of a pass's budgets that it takes, each 0 to 1 (more for a
            row that is larger than a pass).
        lane: one of `LANES`.
        on_done: called with the results of all rows and the milliseconds of the last pass.
        arrived: time on the scheduler's clock when the request was submitted.
        results: results of the rows that are computed.
        started_rows: number of rows that are or were in a pass.
    """

    rows: Sequence[Row]
    costs: Sequence[tuple[float, ...]]
    lane: str
    on_done: Callable[[list[Result | LensembleError], float], None]
    arrived: float = 0.0
    results: list[Result | LensembleError] = field(default_factory=list)
    started_rows: int = 0


@dataclass(slots=True)
class Lane:
    """The state of one lane.

    Attributes:
        requests: requests that still have rows to start, in order of arrival.
        waiting_rows: number of their rows that wait.
        used_s: seconds of passes that the lane has had, as fair queueing counts them.
        row_s: seconds that one row takes, as a moving average; 0 before the first pass.
        waited_s: sum of the times that rows waited before their pass, in seconds.
        passes_s: sum over the computed rows of the whole duration of each row's pass, in seconds.
        started_rows: number of rows that were put into a pass.
    """

    requests: deque[QueuedRequest[Any, Any]] = field(default_factory=deque)
    waiting_rows: int = 0
    used_s: float = 0.0
    row_s: float = 0.0
    waited_s: float = 0.0
    passes_s: float = 0.0
    started_rows: int = 0
