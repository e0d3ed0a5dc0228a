"""What is worth another try, and how long to wait before it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lensemble_contract.errors import LensembleError, NotReadyError, OverloadedError


@dataclass(frozen=True, slots=True)
class Retry:
    """Tries, with waits that grow and are drawn at random: callers do not come back all at once.

    "Full jitter": Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog.

    Attributes:
        tries: In all; 1 tries once. What a call that sends many items is refused for load is not
            counted, and tried again until its timeout: most of the load may be its own.
        first_s: Longest wait before the second try, in seconds; it doubles with each.
        most_s: Longest wait.
    """

    tries: int = 3
    first_s: float = 0.1
    most_s: float = 2.0

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each further try."""
        return itertools.islice(self._all_waits(), max(0, self.tries - 1))

    def patient_waits(self) -> Iterator[float]:
        """Seconds to wait before each further try after a refusal for load; as many as one likes.

        None if there is only one try.
        """
        return self._all_waits() if self.tries > 1 else iter(())

    def _all_waits(self) -> Iterator[float]:
        longest = self.first_s
        while True:
            yield random.uniform(0, min(self.most_s, longest))
            longest = min(self.most_s, 2 * longest)

    @staticmethod
    def worth(error: LensembleError, *, writes: bool) -> bool:
        """Whether the same call may do better, and cannot do harm.

        A call that was refused for load did nothing. One that lost its server may have been done:
        to read again is safe; to write again might undo what somebody else wrote since.

        Args:
            error: Of the call.
            writes: Whether the call changes anything.
        """
        return isinstance(error, OverloadedError) or (
            isinstance(error, NotReadyError) and not writes
        )


class Tries:
    """The tries of one call: how long the next may take, and how long to wait before it.

    Args:
        retry: How many, and with what waits.
        timeout_s: Seconds for all of them together.
        patient: Whether refusals for load are not counted: of calls that send many items.

    Attributes:
        left_s: Seconds that the next try may take.
    """

    def __init__(self, retry: Retry, timeout_s: float, *, patient: bool = False) -> None:
        self.left_s = timeout_s
        self._retry, self._waits = retry, retry.waits()
        self._patient_waits = retry.patient_waits() if patient else self._waits
        self._end = time.monotonic() + timeout_s

    def wait_after(self, error: LensembleError, *, writes: bool) -> float:
        """Seconds to wait before the next try.

        Args:
            error: Of the last try.
            writes: Whether the call changes anything.

        Raises:
            LensembleError: That very error, if there is no next try.
        """
        refused = isinstance(error, OverloadedError)
        wait = next(self._patient_waits if refused else self._waits, None)
        left_s = self._end - time.monotonic() - (wait or 0)
        if wait is None or left_s <= 0 or not self._retry.worth(error, writes=writes):
            raise error
        self.left_s = left_s
        return wait
