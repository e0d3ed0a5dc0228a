"""Work that nobody waits for any more is not done.

A caller says how long it waits (`contract.TIMEOUT_MS`), as gRPC's own deadlines do: a length of
time, so that no two clocks have to agree. The first model makes a point in time of it, on a clock
that all processes of the machine share and that nobody can set; the models behind it compare.
"""

from __future__ import annotations

import time

from lensemble_contract.errors import DeadlineExceededError

NEVER = 0


def from_now(timeout_ms: float) -> int:
    """The deadline of who waits so long from now on.

    Args:
        timeout_ms: Milliseconds.

    Returns:
        Nanoseconds of CLOCK_MONOTONIC, as of `contract.DEADLINE`.
    """
    return time.monotonic_ns() + int(timeout_ms * 1e6)


def is_over(deadline: int) -> bool:
    """Whether it has passed.

    Args:
        deadline: As of `contract.DEADLINE`.
    """
    return deadline != NEVER and deadline < time.monotonic_ns()


def too_late(model: str) -> DeadlineExceededError:
    """What a late request is answered.

    Args:
        model: That did not do its work.
    """
    return DeadlineExceededError(f"the time was over before {model} began; nothing was computed")
