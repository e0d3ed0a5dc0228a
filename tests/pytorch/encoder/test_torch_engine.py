"""The engine on PyTorch, with a small model."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import masking_utils

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch.gpu_engine import GpuEngine
from lensemble.encoder.pytorch.thread_count import ThreadCount
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.synthetic_items import synthetic_texts
from lensemble_client import InternalError, Item, OverloadedError
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import mixed_batch
from tests.unit.encoder.items import text


def test_dimensions_cut_and_normalize_again(pipeline):
    full, short = pipeline.encoder.encode([text(9)] * 2, [None, 64])
    assert (len(full), len(short)) == (256, 64)
    np.testing.assert_allclose(short, full[:64] / np.linalg.norm(full[:64]), atol=1e-6)


def test_common_prefix_is_computed_once(pipeline):
    engine, items = pipeline.encoder, mixed_batch()
    features = [pipeline.preprocess(item) for item in items if item.instruction is None]
    separate = pack(features, engine.input_spec)
    shared = engine.pack(features)
    length = int(shared.cu_seqlens[0])
    # At least the system message and the user's header.
    assert length >= 15
    saved_tokens = length * (len(features) - 1)
    assert shared.input_ids.shape[1] == separate.input_ids.shape[1] - saved_tokens
    torch.testing.assert_close(
        engine.forward(shared), engine.forward(separate), atol=2e-6, rtol=1e-5
    )


def test_single_item_and_mean_pooling_share_no_prefix(pipelines):
    items = [Item("door"), Item("bumper")]
    for profile, chosen in ((EMBEDDING, items[:1]), (MEAN, items)):
        pipeline = pipelines[profile]
        packed = pipeline.encoder.pack([pipeline.preprocess(item) for item in chosen])
        assert packed.cu_seqlens[0] == 0


class RecordingEngine(TorchEngine):
    """Records passes instead of running them; more than `room` tokens do not fit into memory."""

    device = torch.device("cpu")

    def __init__(self, engine, room=10**9):
        self.__dict__.update(engine.__dict__)
        self._batch_tokens, self._batch_patches = 1100, 2100
        self.passes, self.room = [], room

    def forward(self, packed):
        self.passes.append((packed.input_ids.numel(), len(packed.patches)))
        if packed.input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.\nMany more lines.")
        return torch.ones(len(packed.cu_seqlens) - 1, 256)


class RecordingGpuEngine(RecordingEngine, GpuEngine):
    device = torch.device("cuda")
    run_pass = TorchEngine.run_pass


@pytest.mark.parametrize("engine_class", [RecordingEngine, RecordingGpuEngine])
def test_warm_up_is_short_on_cpus_and_fills_both_budgets_of_gpus(pipeline, engine_class):
    engine = engine_class(pipeline.encoder)
    engine.warm_up()
    # A short text; then with it a long text, and a picture of 16 x 16 patches among 16 tokens.
    assert engine.passes[:2] == [(12, 0), (12 + 300 + 80, 256)]
    # Two texts of 512 tokens; two pictures of 32 x 32 patches.
    full = [(1024, 0), (2 * (256 + 16), 2048)] if engine_class is RecordingGpuEngine else []
    assert engine.passes[2:] == full


def test_budgets_that_do_not_fit_into_memory_are_halved(pipeline, caplog):
    engine = RecordingGpuEngine(pipeline.encoder, room=600)
    engine.warm_up()
    assert engine.passes[2:] == [(1024, 0), (512, 0), (544, 2048)]
    assert (engine._batch_tokens, engine._batch_patches) == (550, 2100)
    assert (
        "cannot encode 1024 tokens (LENSEMBLE_BATCH_TOKENS): OutOfMemoryError: CUDA out of "
        "memory.; micro-batches are halved"
    ) in caplog.text


def test_gpu_without_room_for_one_picture_is_refused(pipeline):
    engine = RecordingGpuEngine(pipeline.encoder, room=400)
    with pytest.raises(OverloadedError, match="512 tokens"):
        engine.warm_up()


def test_passes_use_the_measured_number_of_threads(pipeline, monkeypatch):
    engine, threads_in_pass = pipeline.encoder, []
    forward = type(engine).forward

    def recording_forward(self, packed):
        threads_in_pass.append(torch.get_num_threads())
        return forward(self, packed)

    monkeypatch.setattr(type(engine), "forward", recording_forward)
    items = synthetic_texts([5, 9], engine.input_spec)
    before = torch.get_num_threads()
    for large_from in (0, 10**6):
        monkeypatch.setattr(engine, "thread_count", ThreadCount(3, large_from))
        engine.vectors(items)
    assert threads_in_pass == [3, 1]
    assert torch.get_num_threads() == before


def test_row_of_positions_for_transformers_is_not_needed(pipeline, monkeypatch):
    """Transformers searches a fourth row for the first token of each item, and GPUs wait for it."""
    engine = pipeline.encoder
    packed = pack([pipeline.preprocess(item) for item in mixed_batch()], engine.input_spec)
    searches, search = [], masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(
        masking_utils,
        "find_packed_sequence_indices",
        lambda positions: searches.append(positions) or search(positions),
    )
    expected = engine.forward(packed)
    assert searches == []
    restarting = torch.cat([torch.arange(length) for length in packed.cu_seqlens.diff()])
    four_rows = torch.cat([restarting[None, None], packed.position_ids])
    assert engine.forward(replace(packed, position_ids=four_rows)).equal(expected)
    assert len(searches) == 1


class BrokenEngine(TorchEngine):
    """Fails on pictures, or on all items, or gives vectors that are not finite."""

    def __init__(self, engine, fault):
        self.__dict__.update(engine.__dict__)
        self.fault = fault

    def run_pass(self, items):
        pictures = any(len(item.patches) for item in items)
        if self.fault == "all items" or (self.fault == "pictures" and pictures):
            raise RuntimeError("Expected all tensors to be on the same device")
        result = super().run_pass(items)
        if self.fault == "not finite":
            result.vectors[-1] = np.nan
        return result


@pytest.mark.parametrize("fault", ["pictures", "all items", "not finite"])
def test_faults_end_the_warm_up_and_fail_the_self_test(pipeline, fault):
    pipeline.encoder.warm_up()
    pipeline.encoder.self_test()
    broken = BrokenEngine(pipeline.encoder, fault)
    with pytest.raises(InternalError) as caught:
        broken.warm_up()
    if fault != "not finite":
        assert "Expected all tensors to be on the same device" in str(caught.value)
    with pytest.raises(InternalError):
        broken.self_test()


class FakeGpu:
    """Stands for a second GPU; records on which device events are recorded."""

    def __init__(self, monkeypatch):
        self.current, self.events = 0, []
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: self)
        empty = torch.empty
        monkeypatch.setattr(
            torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options)
        )

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before

    def record(self):
        self.events.append(self.current)

    def synchronize(self):
        self.events.append("wait")

    def elapsed_time(self, other):
        return 1000.0


class SecondGpuEngine(GpuEngine):
    """The engine of a model on the second GPU; it computes on the CPU."""

    device = torch.device("cuda", 1)

    def __init__(self, engine):
        self.__dict__.update(engine.__dict__)
        self._uploader = lambda packed: packed


def test_passes_on_the_second_gpu_wait_for_events_of_that_gpu(pipeline, monkeypatch):
    """An event that is recorded on the first GPU says that the vectors are there at once."""
    items = synthetic_texts([5, 9], pipeline.encoder.input_spec)
    expected = pipeline.encoder.vectors(items)
    with monkeypatch.context() as patch:
        gpu = FakeGpu(patch)
        engine = SecondGpuEngine(pipeline.encoder)
        first, second = engine.launch_pass(items), engine.launch_pass(items[:1])
        # Three marks of the timer and one event for the result in each pass.
        assert gpu.events == [1] * 8
        results = [first(), second()]
        assert gpu.events[8:] == ["wait", "wait"]
    np.testing.assert_allclose(results[0].vectors, expected, atol=2e-6)
    np.testing.assert_allclose(results[1].vectors, expected[:1], atol=2e-6)
    assert results[0].tower_seconds == [1.0, 1.0]
