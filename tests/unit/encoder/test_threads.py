"""How many threads a pass takes, with passes whose times are given."""

import pytest
import torch

from lensemble.encoder import threads
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from tests.parity.cases import mixed_batch


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def clock(monkeypatch, one, every):
    """Passes take `one(rows)` seconds on one thread and `every(rows)` on more."""
    now = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])

    def run(rows):
        now[0] += one(rows) if torch.get_num_threads() == 1 else every(rows)

    return run


def test_small_passes_take_one_thread_and_large_ones_all(monkeypatch):
    # A fixed 2 ms of waiting against a quarter of the work: at 256 rows 2.56 and 2.64 ms, at
    # 1024 10.24 and 4.56.
    run = clock(monkeypatch, lambda rows: rows * 1e-5, lambda rows: 2e-3 + rows * 0.25e-5)
    chosen = threads.choose(run, 4)
    assert [chosen(rows) for rows in (1, 256, 1023, 1024, 10**6)] == [1, 1, 1, 4, 4]


def test_large_models_take_all_threads_for_short_texts_too(monkeypatch):
    run = clock(monkeypatch, lambda rows: rows * 1e-3, lambda rows: rows * 0.3e-3)
    chosen = threads.choose(run, 4)
    assert chosen(64) == 4


def test_gain_that_is_not_clear_leaves_the_other_cores_to_others(monkeypatch):
    run = clock(monkeypatch, lambda rows: rows * 1e-5, lambda rows: rows * 0.9e-5)
    assert threads.choose(run, 4)(10**6) == 1


def test_long_passes_are_timed_once_and_take_all(monkeypatch):
    runs = []
    run = clock(monkeypatch, lambda rows: rows * 1.0, lambda rows: rows * 1.0)
    chosen = threads.choose(lambda rows: (runs.append(rows), run(rows)), 4)
    assert chosen(threads.SIZES[0]) == 4
    assert runs == [threads.SIZES[0]] * 2


def test_one_thread_needs_no_clock():
    assert threads.choose(lambda rows: pytest.fail("timed"), 1)(10**6) == 1


def test_what_was_set_is_put_back_even_after_an_error():
    with pytest.raises(ZeroDivisionError), threads.Threads(4, pays_from=100).during(99):
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == 4
    with threads.Threads(4, pays_from=100).during(100):
        assert torch.get_num_threads() == 4


def test_passes_run_with_the_threads_that_pay(checkpoint, monkeypatch):
    pipeline = Pipeline(Settings(checkpoint=checkpoint, threads=3))
    seen = []
    forward = type(pipeline.encoder).forward
    monkeypatch.setattr(
        type(pipeline.encoder),
        "forward",
        lambda self, packed: (seen.append(torch.get_num_threads()), forward(self, packed))[1],
    )
    for pays_from, expected in ((0, 3), (10**6, 1)):
        pipeline.encoder.threads = threads.Threads(3, pays_from)
        pipeline.embed(mixed_batch()[:3])
        assert seen.pop() == expected
    assert torch.get_num_threads() == 4
