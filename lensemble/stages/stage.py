"""What each Triton model does, without Triton: rows of tensors in, rows of tensors out.

A stage reads the rows of one request, runs the rows of many requests together, and writes the
results of one request. `triton.respond` drives it; tests drive it by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble.scheduling import deadline
from lensemble.vectors import cut_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Rows

# Triton's own, and headers that it may be told to forward.
_FOREIGN_PARAMETERS = ("triton_", "binary_data", "sequence_", "x-", "traceparent")

_LONGEST_MS = 1e12
"""Some thirty years: INT64 holds the nanoseconds of more."""

Row = TypeVar("Row")
Result = TypeVar("Result")
Parameters = Mapping[str, Any]


class Counter(NamedTuple):
    """A number that only grows, for Triton's metrics.

    Attributes:
        name: By Prometheus' rules; ends in `_total`.
        help: One line.
        labels: Name -> value.
        value: Of now.
    """

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


class Gauge(NamedTuple):
    """A number that goes up and down, for Triton's metrics; see `Counter`."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


class Stage(Generic[Row, Result]):
    """One Triton model's work.

    Attributes:
        model: What it takes and gives.
        about: What its operator wants to know of it, for Triton's metrics: name -> value.
        patience_s: Seconds that a call may go on without using a CPU before the process counts as
            hung; more for stages that wait for disks or for other servers.
    """

    model: contract.Model
    patience_s: float = 6.0
    about: Mapping[str, str] = MappingProxyType({})

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Row | LensembleError]:
        """The rows of one request, each read or refused.

        Raises:
            LensembleError: The whole request is refused.
        """
        raise NotImplementedError

    def run(self, rows: Sequence[Row]) -> Sequence[Result | LensembleError]:
        """Results for the rows of many requests, in order."""
        raise NotImplementedError

    def write(self, results: Sequence[Result]) -> Rows:
        """The output tensors of one request whose rows all succeeded."""
        raise NotImplementedError

    def counters(self) -> Sequence[Counter]:
        """What is counted, for Triton's metrics; the same ones every time."""
        return ()

    def gauges(self) -> Sequence[Gauge]:
        """What is measured now, for Triton's metrics; the same ones every time."""
        return ()

    def check(self) -> None:
        """Does a little of the stage's work, to show that it can.

        Raises:
            Exception: It cannot.
        """

    def close(self) -> None:
        """Lets go of files and threads."""


class LaneStage(Stage[Row, Result]):
    """A stage whose requests wait in `lanes` instead of in Triton's queue."""

    def lane(self, rows: Sequence[Row]) -> str:
        """The lane of one request, of `admission.LANES`."""
        raise NotImplementedError

    def costs(self, row: Row) -> tuple[float, ...]:
        """Parts of the budgets of a pass that a row takes."""
        raise NotImplementedError

    def rest(self) -> None:
        """Does what there is time for while nobody asks for anything."""

    def detached(self, row: Row) -> Row:
        """The row in memory of its own: what was read lies in that of a request that is let go."""
        raise NotImplementedError


def check_parameters(parameters: Parameters) -> None:
    """Refuses a request parameter that no model reads: a misspelt one would pass in silence.

    Raises:
        InvalidInputError: There is one that is neither known nor Triton's or a proxy's own.
    """
    for name in parameters:
        if name not in contract.PARAMETERS and not name.lower().startswith(_FOREIGN_PARAMETERS):
            raise InvalidInputError(
                f"no such request parameter; there are {', '.join(contract.PARAMETERS)}",
                field=name,
            )


def cut_to(
    length: int, full: int, vectors: NDArray[np.float32], parameters: Parameters
) -> NDArray[np.float32]:
    """Vectors as an index of shorter ones wants them, where the request asks for no length.

    Args:
        length: Of the index's vectors.
        full: Of the profile's vectors.
        vectors: (B, D) float32.
        parameters: Of the request.
    """
    if whole_number(parameters, contract.DIMENSIONS) is None and vectors.shape[1] == full > length:
        return cut_rows(vectors, length)  # Matryoshka, as the index's vectors were
    return vectors


def text(parameters: Parameters, name: str) -> str:
    """A request parameter that is a text; empty if it is absent.

    Raises:
        InvalidInputError: It is something else.
    """
    value = parameters.get(name, "")
    if not isinstance(value, str):
        raise InvalidInputError(f"{value!r}; expected a string", field=name)
    return value


def number(parameters: Parameters, name: str, default: float) -> float:
    """A request parameter that is a finite number, as such or as text.

    Raises:
        InvalidInputError: It is something else.
    """
    value = parameters.get(name, default)
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isfinite(found) or found == default:
        return found
    raise InvalidInputError(f"{value!r}; expected a finite number", field=name)


def names(parameters: Parameters, name: str, most: int) -> tuple[str, ...]:
    """A request parameter that is the JSON text of a list of strings; empty if it is absent.

    Raises:
        InvalidInputError: It is something else, or too long.
    """
    said = text(parameters, name)
    if not said:
        return ()
    try:
        listed = json.loads(said)
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError("not a list of strings")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{said[:60]!a}; expected the JSON text of a list of strings ({error})", field=name
        ) from error
    if len(listed) > most:
        raise InvalidInputError(f"{len(listed)} of them; expected at most {most}", field=name)
    return tuple(listed)


def deadline_of(rows: Rows, parameters: Parameters) -> int:
    """When nobody waits for a request any more: what an earlier model said, or counted from now.

    Args:
        rows: Inputs of the request.
        parameters: Of the request.

    Returns:
        As of `contract.DEADLINE`.

    Raises:
        InvalidInputError: The timeout is no positive number.
    """
    said = rows.get(contract.DEADLINE.name)
    if said is not None:
        return int(said.max(initial=deadline.NEVER))
    if contract.TIMEOUT_MS not in parameters:
        return deadline.NEVER
    timeout_ms = number(parameters, contract.TIMEOUT_MS, 0.0)
    if not 0 < timeout_ms < _LONGEST_MS:
        raise InvalidInputError(
            f"{timeout_ms:g}; expected milliseconds, more than 0 and less than {_LONGEST_MS:g}",
            field=contract.TIMEOUT_MS,
        )
    return deadline.from_now(timeout_ms)


def whole_number(parameters: Parameters, name: str) -> int | None:
    """A request parameter that is a whole number, however the protocol carried it."""
    value = parameters.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        return int(value) if isinstance(value, str) else _refuse(value)
    except ValueError:
        raise InvalidInputError(f"{value!r} is not a whole number", field=name) from None


def _refuse(value: object) -> int:
    raise ValueError(value)
