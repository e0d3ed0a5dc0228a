"""Work that goes on beside the steps, and whose result is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Calls a function in a thread that does not keep the process alive.

    Args:
        work: Function to call.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, timeout_s: float) -> Result:
        """Waits for the result.

        Args:
            timeout_s: Longest time to wait, in seconds.

        Raises:
            TimeoutError: It is not there in time.
            Exception: The function raised it.
        """
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError(f"not ready after another {timeout_s:.0f} s")
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
