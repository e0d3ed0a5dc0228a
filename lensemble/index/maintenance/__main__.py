"""`python -m lensemble.index.maintenance FOLDER`: makes the next snapshot of an index."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from lensemble.index.maintenance.compact import compact
from lensemble_contract.errors import LensembleError

_PR_SET_PDEATHSIG = 1  # prctl(2)
_NICE = 10  # those who search and write come first


def main() -> int:
    """Compacts.

    Returns:
        0, or 1 if it failed: the reason is on standard error.
    """
    # Who asked for it and is gone does not need it; the index stays as it was.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICE)
    logging.basicConfig(level=logging.INFO)
    try:
        # Half of the cores: those who search and write want the caches, too.
        compact(Path(sys.argv[1]), threads=max(1, len(os.sched_getaffinity(0)) // 2))
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
