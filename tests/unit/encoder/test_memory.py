import subprocess
import sys
import textwrap

FAULTS = """
    import resource, torch
    from lensemble.encoder.memory import keep_freed
    {call}
    for n in range(30):
        ones = torch.ones(16 << 20)  # 64 MiB; small pieces between make a hole for it, in a while
        del ones
        if n == 24:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken(call: str) -> int:
    """Pages that a process asks the kernel for that makes and frees 64 MiB five times."""
    code = textwrap.dedent(FAULTS).format(call=call)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_freed_memory_is_used_again_without_asking_the_kernel():
    assert 4 * pages_taken("assert keep_freed()") < pages_taken("")


HELD = """
    import ctypes, psutil
    from lensemble.encoder.memory import give_back, keep_freed
    keep_freed()
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pieces = [libc.malloc(1 << 20) for _ in range(200)]
    for piece in pieces:
        ctypes.memset(piece, 1, 1 << 20)
    last = libc.malloc(64)  # above them: they are a hole, not the end
    for piece in pieces:
        libc.free(piece)
    before = psutil.Process().memory_info().rss
    assert give_back()
    print((before - psutil.Process().memory_info().rss) >> 20)
"""


def test_what_is_kept_can_be_given_back():
    code = textwrap.dedent(HELD)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 150
