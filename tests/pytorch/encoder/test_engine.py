"""Batches, errors and deadlines of an engine, with a fake model whose vectors are known."""

import weakref

import numpy as np
import pytest
import torch

from lensemble.encoder.engine import Engine, PassResult
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.micro_batches import started_encoding
from lensemble.scheduling.deadline import from_timeout
from lensemble_client import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    OverloadedError,
)
from tests.profiles import make_profile
from tests.unit.encoder.items import text

SPEC = InputSpec(vocab_size=1000, image_token_id=999, merge_size=2, num_grid_per_side=48)
PROFILE = make_profile()
UNLUCKY, NAN = 13, 14  # ids of tokens that make the fake model fail, or return NaN


class FakeEngine(Engine):
    """An item's vector is the unit vector whose index is its number of tokens.

    Memory holds `room` tokens.
    """

    engine_name = "fake"
    device = torch.device("cpu")
    precision = "float32"

    def __init__(self, room=10**9, batch_tokens=16_384, batch_patches=32_768):
        super().__init__(PROFILE, SPEC, batch_tokens=batch_tokens, batch_patches=batch_patches)
        self.room = room
        self.pass_sizes: list[int] = []

    def run_pass(self, items):
        packed = self.pack(items)
        self.pass_sizes.append(len(items))
        if packed.input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("no room")
        if (packed.input_ids == UNLUCKY).any():
            raise RuntimeError("unlucky")
        vectors = np.zeros((len(items), PROFILE.dimension), np.float32)
        for vector, item in zip(vectors, items, strict=True):
            vector[len(item.input_ids)] = 1
        if (packed.input_ids == NAN).any():
            vectors[:] = np.nan
        return PassResult(vectors, packed.input_ids.numel(), 0)


def token_counts(results) -> list[int]:
    return [int(result.argmax()) for result in results]


def test_results_keep_their_order_over_micro_batches():
    engine = FakeEngine(batch_tokens=10)
    counts = [7, 3, 9, 1, 1, 8]
    assert token_counts(engine.encode([text(n) for n in counts])) == counts
    assert engine.pass_sizes == [2, 2, 2]


def test_micro_batch_that_does_not_fit_into_memory_is_halved():
    engine = FakeEngine(room=12)
    # Different ids, so that the items share no prefix.
    assert token_counts(engine.encode([text(5, 20 + n) for n in range(8)])) == [5] * 8
    assert engine.pass_sizes == [8, 4, 2, 2, 4, 2, 2]


def test_tensors_of_a_failed_pass_are_freed_before_the_next_try():
    """If the error's traceback held them, they would fill the memory that the halves need."""
    references = []

    class HeavyEngine(FakeEngine):
        def run_pass(self, items):
            assert not [reference for reference in references if reference() is not None]
            activation = torch.zeros(10)
            references.append(weakref.ref(activation))
            return super().run_pass(items)

    engine = HeavyEngine(room=12)
    assert token_counts(engine.encode([text(5, 20 + n) for n in range(8)])) == [5] * 8
    assert len(references) == 7


def test_item_that_does_not_fit_into_memory_alone_has_its_own_error():
    results = FakeEngine(room=12).encode([text(5), text(50), text(6)])
    assert isinstance(results[1], OverloadedError)
    assert "50 tokens" in str(results[1])
    assert token_counts([results[0], results[2]]) == [5, 6]


def test_item_that_fails_does_not_affect_the_others():
    results = FakeEngine().encode([text(5), text(6, UNLUCKY), text(7)])
    assert isinstance(results[1], InternalError)
    assert token_counts([results[0], results[2]]) == [5, 7]


def test_vector_that_is_not_finite_is_an_error():
    (result,) = FakeEngine().encode([text(5, NAN)])
    assert isinstance(result, InternalError)


def test_invalid_items_are_refused_before_the_model_runs():
    engine = FakeEngine()
    results = engine.encode([text(4), text(4, 10**6), text(4)], [None, None, 3])
    assert token_counts(results[:1]) == [4]
    assert [type(result) for result in results[1:]] == [InvalidInputError] * 2
    assert engine.pass_sizes == [1]


def test_items_past_their_deadline_are_not_computed():
    engine = FakeEngine()
    past, never = 1, 0
    results = engine.encode(
        [text(4), text(5), text(6), text(7)], deadlines=[never, past, from_timeout(600_000), past]
    )
    assert [type(results[n]) for n in (1, 3)] == [DeadlineExceededError] * 2
    assert token_counts([results[0], results[2]]) == [4, 6]
    assert engine.pass_sizes == [2]


def test_deadlines_are_checked_before_each_micro_batch(monkeypatch):
    now = [0]
    monkeypatch.setattr(started_encoding, "is_over", lambda deadline: 0 < deadline < now[0])

    class SlowEngine(FakeEngine):
        def run_pass(self, items):
            now[0] += 200
            return super().run_pass(items)

    engine = SlowEngine(batch_tokens=5)
    results = engine.encode([text(5)] * 3, deadlines=[0, 100, 0])
    assert isinstance(results[1], DeadlineExceededError)
    assert token_counts([results[0], results[2]]) == [5, 5]
    assert engine.pass_sizes == [1, 1]


def test_dimensions_cut_vectors():
    full, short = FakeEngine().encode([text(9)] * 2, [None, 64])
    assert (len(full), len(short)) == (256, 64)
    assert token_counts([full, short]) == [9, 9]


def test_no_items_give_no_results():
    engine = FakeEngine()
    assert engine.encode([]) == []
    assert engine.pass_sizes == []


def test_statistics_are_sums_over_all_passes():
    engine = FakeEngine(batch_tokens=10)
    engine.encode([text(5), text(10, 6)])
    sums = engine.statistics.sums()
    assert (sums["passes"], sums["items"], sums["tokens"]) == (2, 2, 15)
    assert sums["budget"] == pytest.approx(1.5)


def test_vectors_raises_the_error_of_an_item_and_self_test_does_too():
    engine = FakeEngine()
    assert engine.vectors([text(3), text(4)]).argmax(axis=1).tolist() == [3, 4]
    with pytest.raises(InvalidInputError):
        engine.vectors([text(3), text(4, 10**6)])
    engine.self_test()
    engine.room = 0
    with pytest.raises(OverloadedError):
        engine.self_test()


class FakeGpuEngine(FakeEngine):
    """Runs passes like a GPU: they are launched, and fail when they are launched or later.

    Attributes:
        log: `launch` and `wait` with the number of tokens of each item.
    """

    passes_in_flight = 2

    def __init__(self, *, fails_at_launch=False, **options):
        super().__init__(**options)
        self.fails_at_launch = fails_at_launch
        self.log = []

    def launch_pass(self, items):
        counts = [len(item.input_ids) for item in items]
        self.log.append(("launch", counts))
        if self.fails_at_launch:
            result = self.run_pass(items)

        def wait():
            self.log.append(("wait", counts))
            return result if self.fails_at_launch else self.run_pass(items)

        return wait


def test_next_micro_batch_is_launched_before_the_first_has_ended():
    engine = FakeGpuEngine(batch_tokens=5)
    assert token_counts(engine.encode([text(n) for n in (3, 4, 5)])) == [3, 4, 5]
    assert engine.log == [
        ("launch", [3]),
        ("launch", [4]),
        ("wait", [3]),
        ("launch", [5]),
        ("wait", [4]),
        ("wait", [5]),
    ]
    assert engine.statistics.passes == 3


def test_started_items_are_launched_at_once_and_errors_keep_their_places():
    engine = FakeGpuEngine()
    wait = engine.start([text(4), text(4, 10**6), text(5)], deadlines=[0, 0, 1])
    assert engine.log == [("launch", [4])]
    vector, invalid, late = wait()
    assert token_counts([vector]) == [4]
    assert isinstance(invalid, InvalidInputError)
    assert isinstance(late, DeadlineExceededError)


@pytest.mark.parametrize("fails_at_launch", [True, False])
def test_pass_that_fails_on_the_device_is_halved(fails_at_launch):
    engine = FakeGpuEngine(room=12, batch_tokens=40, fails_at_launch=fails_at_launch)
    items = [text(5, 20 + n) for n in range(16)]
    items[3] = text(5, UNLUCKY)
    results = engine.encode(items)
    assert isinstance(results.pop(3), InternalError)
    assert token_counts(results) == [5] * 15
