"""`python -m lensemble.index.maintenance FOLDER`: builds the next snapshot of an index."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from lensemble.index.maintenance.compact import compact
from lensemble_contract.errors import LensembleError

_PR_SET_PDEATHSIG = 1  # constant of prctl(2)
_NICE = 10  # lower priority than searches and writes


def main() -> int:
    """Compacts the index.

    Returns:
        The exit status: 0, or 1 if it failed; the reason is then on standard error.
    """
    # The kernel kills this process when its parent dies. The index is then unchanged.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICE)
    logging.basicConfig(level=logging.INFO)
    try:
        # Use half of the cores, because searches and writes need the CPU caches, too.
        compact(Path(sys.argv[1]), threads=max(1, len(os.sched_getaffinity(0)) // 2))
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
