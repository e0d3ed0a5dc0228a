"""Choice of the number of threads; a fake clock decides how long passes take."""

import pytest
import torch

from lensemble.encoder.pytorch import thread_count
from lensemble.encoder.pytorch.thread_count import ThreadCount, measure_thread_count
from tests.waiting import FakeClock


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def timed_pass(monkeypatch, single_s, many_s):
    """A pass that takes `single_s(rows)` seconds on one thread and `many_s(rows)` on more."""
    clock = FakeClock()
    monkeypatch.setattr(thread_count.time, "perf_counter", clock)

    def run(rows):
        clock.advance(single_s(rows) if torch.get_num_threads() == 1 else many_s(rows))

    return run


def test_small_passes_use_one_thread_and_large_ones_all(monkeypatch):
    # With all threads a pass waits 2 ms and does its work in a quarter of the time. So 256 rows
    # take 2.56 ms with one thread and 2.64 ms with all, and 1024 rows take 10.24 ms and 4.56 ms.
    run = timed_pass(monkeypatch, lambda rows: rows * 1e-5, lambda rows: 2e-3 + rows * 0.25e-5)
    count = measure_thread_count(run, 4)
    assert [count(rows) for rows in (1, 256, 1023, 1024, 10**6)] == [1, 1, 1, 4, 4]


def test_large_models_use_all_threads_even_for_short_texts(monkeypatch):
    run = timed_pass(monkeypatch, lambda rows: rows * 1e-3, lambda rows: rows * 0.3e-3)
    count = measure_thread_count(run, 4)
    assert count(64) == 4


def test_small_gain_is_not_worth_all_threads(monkeypatch):
    run = timed_pass(monkeypatch, lambda rows: rows * 1e-5, lambda rows: rows * 0.9e-5)
    assert measure_thread_count(run, 4)(10**6) == 1


def test_long_passes_are_timed_once_and_use_all_threads(monkeypatch):
    runs = []
    run = timed_pass(monkeypatch, lambda rows: rows * 1.0, lambda rows: rows * 1.0)
    count = measure_thread_count(lambda rows: (runs.append(rows), run(rows)), 4)
    assert count(thread_count.TIMED_ROWS[0]) == 4
    assert runs == [thread_count.TIMED_ROWS[0]] * 2


def test_single_thread_needs_no_timing():
    assert measure_thread_count(lambda rows: pytest.fail("timed"), 1)(10**6) == 1


def test_number_of_threads_is_reset_even_after_an_error():
    with pytest.raises(ZeroDivisionError), ThreadCount(4, large_from=100).applied_to(99):
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == 4
    with ThreadCount(4, large_from=100).applied_to(100):
        assert torch.get_num_threads() == 4
