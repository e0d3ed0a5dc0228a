"""Each test runs a process of its own, because the settings apply to a whole process."""

import subprocess
import sys
import textwrap

ALLOCATOR = """
    import ctypes
    from lensemble.encoder.freed_memory import keep_freed_memory, return_freed_memory
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
"""

COUNT_PAGE_FAULTS = (
    ALLOCATOR
    + """
    import resource
    {call}
    for n in range(6):
        if n == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        piece = libc.malloc(64 << 20)
        ctypes.memset(piece, 1, 64 << 20)
        libc.free(piece)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
)


def run(code: str) -> int:
    """Runs a Python program and returns the number that it prints."""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(process.stdout)


def page_faults(call: str) -> int:
    """Counts the page faults of a process while it allocates and frees 64 MiB five times."""
    return run(textwrap.dedent(COUNT_PAGE_FAULTS).format(call=call))


def test_kept_memory_is_reused_without_page_faults():
    assert 4 * page_faults("assert keep_freed_memory()") < page_faults("")


MEASURE_RETURNED_MIB = (
    ALLOCATOR
    + """
    import psutil
    keep_freed_memory()
    pieces = [libc.malloc(1 << 20) for _ in range(200)]
    for piece in pieces:
        ctypes.memset(piece, 1, 1 << 20)
    last = libc.malloc(64)  # keeps the heap from shrinking at its end
    for piece in pieces:
        libc.free(piece)
    before = psutil.Process().memory_info().rss
    assert return_freed_memory()
    print((before - psutil.Process().memory_info().rss) >> 20)
"""
)


def test_kept_memory_can_be_returned_to_the_kernel():
    assert run(textwrap.dedent(MEASURE_RETURNED_MIB)) > 150
