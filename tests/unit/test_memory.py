import resource
import subprocess
import sys
import textwrap

FAULTS = """
    import resource, torch
    from lensemble.memory import keep_freed
    {call}
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MiB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def pages_taken(call: str) -> int:
    """Pages that a process asked the kernel for that makes and frees 64 MiB five times."""
    code = textwrap.dedent(FAULTS).format(call=call)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_freed_memory_is_used_again_without_asking_the_kernel():
    size = (64 << 20) // resource.getpagesize()
    spared = pages_taken("") - pages_taken("assert keep_freed()")
    assert spared > 2 * size  # of four times; huge pages may stand for many
