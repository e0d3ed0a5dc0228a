"""The work of a Triton model, without Triton: rows of tensors in, rows of tensors out.

A stage reads the rows of one request, computes the rows of many requests together, and writes the
results of one request. `lensemble.stages.python_backend` calls it; tests call it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters

Row = TypeVar("Row")
Result = TypeVar("Result")


class Counter(NamedTuple):
    """A number that only grows, for Triton's metrics.

    Attributes:
        name: name by Prometheus's rules, ending in `_total`.
        help: description in one line.
        labels: label names and their values.
        value: current value.
    """

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


class Gauge(NamedTuple):
    """A number that goes up and down, for Triton's metrics; its fields are those of `Counter`."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


class Stage(Generic[Row, Result]):
    """The work of one Triton model. Its constructor takes the settings and a torch device.

    Attributes:
        model: the model's inputs and outputs.
        info: facts for operators, which become the labels of the metric `lensemble_model_info`.
        patience_s: seconds that a call may go on without using CPU time before its process is
            considered hung. Stages that wait for disks or for other servers need more.
    """

    model: contract.Model
    patience_s: float = 6.0
    info: Mapping[str, str] = MappingProxyType({})

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Row | LensembleError]:
        """Reads the rows of one request; a row that cannot be used becomes an error.

        Raises:
            LensembleError: The whole request is refused.
        """
        raise NotImplementedError

    def run(self, rows: Sequence[Row]) -> Sequence[Result | LensembleError]:
        """Computes the rows of many requests; returns a result or an error for each, in order."""
        raise NotImplementedError

    def write(self, results: Sequence[Result]) -> Rows:
        """Makes the output tensors of one request, all of whose rows succeeded."""
        raise NotImplementedError

    def counters(self) -> Sequence[Counter]:
        """Counters for Triton's metrics, the same ones at every call."""
        return ()

    def gauges(self) -> Sequence[Gauge]:
        """Gauges for Triton's metrics, the same ones at every call."""
        return ()

    def check(self) -> None:
        """Does a little of the stage's work, to show that it still can.

        Raises:
            Exception: The stage cannot do its work.
        """

    def close(self) -> None:
        """Closes files and ends threads."""


class LaneStage(Stage[Row, Result]):
    """A stage whose requests wait in the lanes of `LaneScheduler`, not in Triton's queue."""

    @property
    def passes_in_flight(self) -> int:
        """Number of passes that may be started before the first of them has ended."""
        return 1

    def start(self, rows: Sequence[Row]) -> Callable[[], Sequence[Result | LensembleError]]:
        """Does the same as `run`, but returns a function that waits for the results.

        The functions must be called in the order in which they were returned.
        """
        return partial(self.run, rows)

    def lane(self, rows: Sequence[Row]) -> str:
        """The lane of a request with these rows, one of `lanes.LANES`."""
        raise NotImplementedError

    def costs(self, row: Row) -> tuple[float, ...]:
        """The shares of a pass's budgets that a row takes."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Does maintenance for which there is time while no request waits."""

    def copied(self, row: Row) -> Row:
        """A copy of the row, because Triton frees the memory of a request's tensors."""
        raise NotImplementedError


def run_each(
    compute: Callable[[Row], Result], rows: Sequence[Row]
) -> list[Result | LensembleError]:
    """Computes rows one by one. If a row raises a `LensembleError`, that error is its result."""
    results: list[Result | LensembleError] = []
    for row in rows:
        try:
            results.append(compute(row))
        except LensembleError as error:
            results.append(error)
    return results
