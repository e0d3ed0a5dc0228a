"""Admission: refuses requests that would wait too long, before any work is done for them.

A queue without a limit makes callers wait until they have given up, and Triton's own queue limits
stall the bundled server (docs/decisions.md). So the first model refuses a request if it would have
to wait longer than `Settings.max_wait_s`, in Triton's queues (`queue_monitor`) and in the encoder's
lanes (`lane_scheduler`) together. Texts, pictures and bulk requests wait in separate lanes, so
texts are still admitted while pictures flood the server.
"""

from __future__ import annotations

from pathlib import Path

from lensemble.scheduling.lanes import TEXT
from lensemble.scheduling.wait_times import WaitReader
from lensemble_contract.errors import OverloadedError

# No request is refused while no more than this wait (requests in Triton's queues, and rows in the
# lane), however long they take; otherwise a slow model could serve nobody. A client that sends many
# requests repeats refused ones until its timeout.
MIN_QUEUE = 4

# Pictures and bulk requests are refused at this share of the longest wait. The rest is reserved
# for texts, which take a fraction of the time.
NON_TEXT_SHARE = 0.5


class AdmissionControl:
    """Decides which requests are refused. Each preprocessing process has one.

    Args:
        folder: folder of the shared files that the supervisor and the encoders write
            (`wait_times`). If it is None or has no files, no request is refused.
        max_wait_s: longest wait in seconds; 0 refuses no request.

    Attributes:
        refused: number of requests that were refused.
    """

    def __init__(self, folder: Path | None, max_wait_s: float) -> None:
        self._waits = WaitReader(folder if max_wait_s else None)
        self._max_wait_s = max_wait_s
        self.refused = 0

    def check(self, lane: str) -> None:
        """Admits or refuses a request.

        Args:
            lane: lane of the request, one of `LANES`.

        Raises:
            OverloadedError: The request would wait too long.
        """
        wait = self._waits.read(lane)
        limit_s = self._max_wait_s * (1.0 if lane == TEXT else NON_TEXT_SHARE)
        if wait is None or wait.queued <= MIN_QUEUE or wait.seconds <= limit_s:
            return
        self.refused += 1
        raise OverloadedError(
            f"{wait.queued:.0f} or more items wait already, about {wait.seconds:.1f} s of work; a "
            f"{lane} request may wait {limit_s:g} s; try again later"
        )
