"""Children end at their limits, and their end harms nobody."""

import faulthandler
import mmap
import os
import signal

import pytest

from lensemble.preprocess.limited_child import ChildFailedError, fill_in_child

MIB = 1 << 20


def run(fill, size=MIB, cpu_s=60, memory_bytes=256 * MIB):
    return fill_in_child(fill, size, cpu_s=cpu_s, memory_bytes=memory_bytes)


def test_result_is_in_shared_memory():
    def fill(shared: mmap.mmap) -> None:
        shared[:6] = f"{os.getppid():06}"[:6].encode()

    assert int(run(fill)[:6]) == int(f"{os.getpid():06}"[:6])


def test_child_that_uses_up_its_cpu_time_is_killed():
    def never_end(shared: mmap.mmap) -> None:
        while True:
            pass

    with pytest.raises(ChildFailedError) as caught:
        run(never_end, cpu_s=1)
    assert caught.value.is_out_of_time
    assert run(lambda shared: None), "the next one runs"


def test_child_cannot_allocate_beyond_its_memory():
    def allocate(shared: mmap.mmap) -> None:
        try:
            bytearray(4096 * MIB)  # more than earlier tests may have left for reuse
        except MemoryError:
            shared[:6] = b"failed"

    assert run(allocate)[:6] == b"failed"


def test_exception_in_a_child_is_an_error_here():
    def fail(shared: mmap.mmap) -> None:
        raise RuntimeError("x")

    with pytest.raises(ChildFailedError, match="exit code 1") as caught:
        run(fail)
    assert not caught.value.is_out_of_time


def test_crash_of_a_child_is_an_error_here():
    def crash(shared: mmap.mmap) -> None:
        faulthandler.disable()  # pytest's would write to the terminal
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(ChildFailedError) as caught:
        run(crash)
    assert caught.value.signal == signal.SIGSEGV
