"""Which failed calls are tried again, and how long to wait before that."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lensemble_contract.errors import LensembleError, NotReadyError, OverloadedError


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed call is tried again, and how long to wait before that.

    Waits are random below a limit that doubles, so that callers do not all come back at the same
    moment ("full jitter": Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog).

    Attributes:
        tries: Number of tries, the first included; 1 never tries again. If a call sends many items,
            a refusal because of overload does not count as a try: the call is tried again until its
            timeout, because it may itself cause most of the load.
        first_wait_s: Longest wait before the second try, in seconds. It doubles with each further
            try.
        max_wait_s: Longest wait before any try, in seconds.
    """

    tries: int = 3
    first_wait_s: float = 0.1
    max_wait_s: float = 2.0

    def waits(self) -> Iterator[float]:
        """Yields the seconds to wait before each further try."""
        return itertools.islice(self._all_waits(), max(0, self.tries - 1))

    def patient_waits(self) -> Iterator[float]:
        """Yields the seconds to wait before each further try, without a limit on their number.

        The iterator is empty if `tries` is 1.
        """
        return self._all_waits() if self.tries > 1 else iter(())

    def _all_waits(self) -> Iterator[float]:
        longest = self.first_wait_s
        while True:
            yield random.uniform(0, min(self.max_wait_s, longest))
            longest = min(self.max_wait_s, 2 * longest)

    @staticmethod
    def is_worth_retrying(error: LensembleError, *, writes: bool) -> bool:
        """Whether trying the call again may succeed and is safe.

        A call that was refused because of overload has done nothing. If the connection to the
        server was lost, the call may have been carried out. Reading again is safe, but writing
        again might undo what somebody else has written since.

        Args:
            error: The error of the call.
            writes: Whether the call changes the index.
        """
        return isinstance(error, OverloadedError) or (
            isinstance(error, NotReadyError) and not writes
        )


class Tries:
    """The tries of one call: how long to wait before the next one, and how long it may take.

    Args:
        retry: Number of tries, and the waits between them.
        timeout_s: Seconds for all tries together.
        patient: Whether the number of tries after refusals because of overload is not limited.

    Attributes:
        left_s: Seconds that the next try may take.
    """

    def __init__(self, retry: Retry, timeout_s: float, *, patient: bool = False) -> None:
        self.left_s = timeout_s
        self._retry, self._waits = retry, retry.waits()
        self._patient_waits = retry.patient_waits() if patient else self._waits
        self._end = time.monotonic() + timeout_s

    def wait_after(self, error: LensembleError, *, writes: bool) -> float:
        """Returns the seconds to wait before the next try.

        Args:
            error: The error of the last try.
            writes: Whether the call changes the index.

        Raises:
            LensembleError: The given error, if the call must not be tried again.
        """
        waits = self._patient_waits if isinstance(error, OverloadedError) else self._waits
        wait = next(waits, None)
        left_s = self._end - time.monotonic() - (wait or 0)
        if wait is None or left_s <= 0 or not self._retry.is_worth_retrying(error, writes=writes):
            raise error
        self.left_s = left_s
        return wait
