"""Deadlines: requests whose callers have stopped waiting are dropped before work is done for them.

A caller sends how long it waits (`contract.TIMEOUT_MS`), like gRPC's own deadlines: a duration, so
that clocks of different machines need not agree. The first model turns it into a point in time on
CLOCK_MONOTONIC, which all processes of a machine share and nobody can set. The later models of the
ensemble receive that point in time (`contract.DEADLINE`) and compare.

A deadline is an int: nanoseconds of CLOCK_MONOTONIC, or `NEVER`.
"""

from __future__ import annotations

import time

from lensemble_contract import contract
from lensemble_contract.errors import DeadlineExceededError, InvalidInputError

NEVER = 0

# About thirty years; more nanoseconds would not fit into an INT64.
_LONGEST_TIMEOUT_MS = 1e12


def from_timeout(timeout_ms: float) -> int:
    """The deadline of a request that arrives now.

    Args:
        timeout_ms: milliseconds that its caller waits.

    Returns:
        The deadline.

    Raises:
        InvalidInputError: The timeout is not positive, or too long to be represented.
    """
    if not 0 < timeout_ms < _LONGEST_TIMEOUT_MS:
        raise InvalidInputError(
            f"{timeout_ms:g}; expected milliseconds, more than 0 and less than "
            f"{_LONGEST_TIMEOUT_MS:g}",
            field=contract.TIMEOUT_MS,
        )
    return time.monotonic_ns() + int(timeout_ms * 1e6)


def is_over(deadline: int) -> bool:
    """Whether a deadline has passed."""
    return deadline != NEVER and deadline < time.monotonic_ns()


def later(first: int, second: int) -> int:
    """The later one of two deadlines; `NEVER` is later than all others."""
    return max(first, second) if first and second else NEVER


def too_late(model: str) -> DeadlineExceededError:
    """The error of a request whose deadline has passed.

    Args:
        model: name of the model that dropped it.
    """
    return DeadlineExceededError(
        f"the deadline passed before {model} began with the request; nothing was computed"
    )
