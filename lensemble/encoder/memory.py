"""What a process does with memory that it has freed: on CPUs, an encoder's keeps it.

Every pass makes tensors of some megabytes and frees them. glibc gives such memory back to the
kernel at once, and the next pass waits for thousands of pages to be zeroed; docs/decisions.md has
the figures. Kept, a process would stay as large as its largest pass has made it; once a minute, in
a moment without work, what is free goes back (`give_back`).
"""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""

_MOST = 1 << 30
"""Bytes. Larger tensors still come and go; an int is what `mallopt` takes."""
_OPTIONS = {
    _M_MMAP_THRESHOLD: _MOST,
    _M_TRIM_THRESHOLD: _MOST,
    # Passes may be made by a thread other than the first one, whose arena would be of 64 MiB pieces
    # that come and go.
    _M_ARENA_MAX: 1,
}


def keep_freed() -> bool:
    """Has this process keep what it frees, up to 1 GiB in one piece, from now on.

    Returns:
        Whether it does; False where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    kept = mallopt is not None and all(
        mallopt(option, value) == 1 for option, value in _OPTIONS.items()
    )
    if not kept:
        logger.info("this C library cannot be told to keep freed memory")
    return kept


def give_back() -> bool:
    """Gives what is freed, and was kept, back to the kernel; takes some milliseconds.

    Returns:
        Whether there was anything; False where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
