"""The encoder's handling of batches, with a model whose answers can be computed by hand."""

import time
import weakref

import numpy as np
import pytest
import torch

from lensemble.encoder import packing
from lensemble.encoder.pytorch.torch_engine import Encoder
from lensemble.preprocess.features import Features
from lensemble.scheduling.deadline import from_now
from lensemble_client import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    Item,
    OverloadedError,
)
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import mixed_batch


class FakeEncoder(Encoder):
    """The vector of an item points along its number of tokens; memory holds `room` tokens."""

    def __init__(self, real: Encoder, room: int = 10**9, **budgets: int) -> None:
        self.__dict__.update(real.__dict__)
        self.room = room
        self.sizes: list[int] = []
        self._batch_tokens = budgets.get("batch_tokens", 16_384)
        self._batch_patches = budgets.get("batch_patches", 32_768)

    def forward(self, packed):
        lengths = packed.cu_seqlens.diff() + packed.cu_seqlens[0]  # what all begin with is shared
        self.sizes.append(len(lengths))
        if packed.input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("no room")
        if (packed.input_ids == 13).any():
            raise RuntimeError("unlucky")
        vectors = torch.zeros(len(lengths), 256)
        vectors[torch.arange(len(lengths)), lengths.long()] = 1.0
        if (packed.input_ids == 14).any():
            vectors[:] = float("nan")
        return vectors


def text(tokens: int, id_: int = 5) -> Features:
    return Features(
        np.full(tokens, id_, np.int32), np.empty((0, 768), np.uint8), np.empty((0, 3), np.int32)
    )


def lengths(results) -> list[int]:
    return [int(result.argmax()) for result in results]


def test_results_keep_their_order_over_micro_batches(pipeline):
    encoder = FakeEncoder(pipeline.encoder, batch_tokens=10)
    assert lengths(encoder.encode([text(n) for n in (7, 3, 9, 1, 1, 8)])) == [7, 3, 9, 1, 1, 8]
    assert encoder.sizes == [2, 2, 2]


def test_micro_batch_that_does_not_fit_is_halved(pipeline):
    encoder = FakeEncoder(pipeline.encoder, room=12)
    assert lengths(encoder.encode([text(5, 20 + n) for n in range(8)])) == [5] * 8
    assert encoder.sizes == [8, 4, 2, 2, 4, 2, 2]


def test_failed_pass_is_let_go_of_before_the_next_try(pipeline):
    """Held by the error's traceback, its tensors would fill the memory that the halves need."""
    alive = []

    class Heavy(FakeEncoder):
        def forward(self, packed):
            assert not [ref for ref in alive if ref() is not None]
            activation = torch.zeros(10)
            alive.append(weakref.ref(activation))
            return super().forward(packed)

    assert lengths(Heavy(pipeline.encoder, room=12).encode([text(5)] * 8)) == [5] * 8


def test_item_that_does_not_fit_alone_has_its_own_error(pipeline):
    encoder = FakeEncoder(pipeline.encoder, room=12)
    results = encoder.encode([text(5), text(50), text(6)])
    assert isinstance(results[1], OverloadedError)
    assert "50 tokens" in str(results[1])
    assert lengths([results[0], results[2]]) == [5, 6]


def test_item_that_fails_harms_no_other(pipeline):
    results = FakeEncoder(pipeline.encoder).encode([text(5), text(6, id_=13), text(7)])
    assert isinstance(results[1], InternalError)
    assert lengths([results[0], results[2]]) == [5, 7]


def test_vector_that_is_not_finite_is_an_error(pipeline):
    (result,) = FakeEncoder(pipeline.encoder).encode([text(5, id_=14)])
    assert isinstance(result, InternalError)


def test_bad_items_are_refused_before_the_model_sees_them(pipeline):
    encoder = FakeEncoder(pipeline.encoder)
    results = encoder.encode([text(4), text(4, id_=10**6), text(4)], [None, None, 3])
    assert lengths(results[:1]) == [4]
    assert [type(result) for result in results[1:]] == [InvalidInputError] * 2
    assert encoder.sizes == [1]


def test_item_that_nobody_waits_for_any_more_is_not_computed(pipeline):
    encoder = FakeEncoder(pipeline.encoder)
    past, never = time.monotonic_ns() - 1, 0
    items = [text(4), text(5), text(6), text(7)]
    results = encoder.encode(items, deadlines=[never, past, from_now(60_000), past])
    assert [type(results[n]) for n in (1, 3)] == [DeadlineExceededError] * 2
    assert lengths([results[0], results[2]]) == [4, 6]
    assert encoder.sizes == [2]


def test_deadlines_are_looked_at_before_each_micro_batch(pipeline):
    class Slow(FakeEncoder):
        def forward(self, packed):
            time.sleep(0.2)
            return super().forward(packed)

    encoder = Slow(pipeline.encoder, batch_tokens=5)
    results = encoder.encode([text(5)] * 3, deadlines=[0, from_now(100), 0])
    assert isinstance(results[1], DeadlineExceededError)
    assert encoder.sizes == [1, 1]


def test_dimensions_cut_and_normalise_again(pipeline):
    full, cut = pipeline.encoder.encode([text(9)] * 2, [None, 64])
    assert (len(full), len(cut)) == (256, 64)
    np.testing.assert_allclose(cut, full[:64] / np.linalg.norm(full[:64]), atol=1e-6)


def test_nothing_gives_nothing(pipeline):
    assert pipeline.encoder.encode([]) == []


def test_what_all_prompts_begin_with_is_computed_once(pipeline):
    encoder, items = pipeline.encoder, mixed_batch()
    features = [pipeline.preprocess(item) for item in items if item.instruction is None]
    apart = packing.pack(features, encoder.input_spec)
    shared = encoder.pack(features)
    count = int(shared.cu_seqlens[0])
    # At least system message and user's header.
    assert count >= 15
    assert shared.input_ids.shape[1] == apart.input_ids.shape[1] - count * (len(features) - 1)
    torch.testing.assert_close(
        encoder.forward(shared), encoder.forward(apart), atol=2e-6, rtol=1e-5
    )


def test_an_item_alone_and_the_mean_of_all_tokens_share_nothing(pipelines):
    items = [Item("door"), Item("bumper")]
    for profile, some in ((EMBEDDING, items[:1]), (MEAN, items)):
        pipeline = pipelines[profile]
        packed = pipeline.encoder.pack([pipeline.preprocess(item) for item in some])
        assert packed.cu_seqlens[0] == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_warm_up_is_short_on_cpus_and_fills_both_budgets_of_gpus(pipeline, device):
    class Recording(FakeEncoder):
        device = torch.device("cpu")

        def forward(self, packed):
            seen.append((packed.input_ids.numel(), len(packed.patches)))
            return torch.ones(len(packed.cu_seqlens) - 1, 256)

    seen = []
    Recording.device = torch.device(device)
    Recording(pipeline.encoder, batch_tokens=1100, batch_patches=2100).warm_up()
    # A short text; with it a long one and a picture of 16 x 16 patches among 16 words.
    assert seen[:2] == [(12, 0), (12 + 300 + 80, 256)]
    # Two texts of 512 tokens; two pictures of 32 x 32 patches.
    assert seen[2:] == ([(1024, 0), (2 * (256 + 16), 2048)] if device == "cuda" else [])
