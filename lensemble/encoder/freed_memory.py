"""Makes glibc keep the memory that this process frees, and return it to the kernel later.

Every pass allocates and frees tensors of some megabytes. By default glibc returns such memory to
the kernel at once, and the next pass waits while the kernel zeroes thousands of pages
(docs/decisions.md has the figures). So an encoder on CPUs keeps freed memory
(`keep_freed_memory`). Its process would then stay as large as its largest pass made it, so it
returns what is free once a minute while it is idle (`return_freed_memory`).
"""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# Options of `mallopt`, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# Bytes. Larger allocations are still returned at once. `mallopt` takes a C int, so 1 GiB is the
# largest power of two.
_LARGEST_KEPT = 1 << 30
_OPTIONS = {
    _M_MMAP_THRESHOLD: _LARGEST_KEPT,
    _M_TRIM_THRESHOLD: _LARGEST_KEPT,
    # Another thread than the first may run the passes. An arena of its own would consist of heaps
    # of 64 MiB, which are returned to the kernel regardless of the thresholds.
    _M_ARENA_MAX: 1,
}


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory, in pieces of up to 1 GiB, from now on.

    Returns:
        Whether it took effect; False if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    kept = mallopt is not None and all(
        mallopt(option, value) == 1 for option, value in _OPTIONS.items()
    )
    if not kept:
        logger.info("the C library is not glibc: it returns freed memory as it likes")
    return kept


def return_freed_memory() -> bool:
    """Returns the freed memory that this process has kept; takes some milliseconds.

    Returns:
        Whether any memory went back to the kernel; False if the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
