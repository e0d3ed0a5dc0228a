"""What the upload to a GPU does to a batch, without a GPU."""

import contextlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import upload
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from tests.pytorch.encoder.test_engine import SPEC

TEXTS = synthetic_texts([5, 9], SPEC)
PICTURES = [synthetic_picture(4, SPEC), synthetic_picture(6, SPEC)]


def assert_equal(first, second):
    for field in fields(first):
        values = [getattr(batch, field.name) for batch in (first, second)]
        if isinstance(values[0], torch.Tensor):
            assert values[0].dtype == values[1].dtype
            assert values[0].equal(values[1]), field.name
        else:
            assert values[0] == values[1]


@pytest.mark.parametrize("items", [TEXTS, PICTURES, [*TEXTS, *PICTURES]])
def test_batch_in_one_buffer_is_the_same_batch(items):
    packed = pack(items, SPEC)
    buffer, places = upload.join(packed, pin_memory=False)
    assert buffer.dtype == torch.uint8
    assert "patches" not in places
    moved = buffer.clone()
    buffer.zero_()
    assert_equal(upload.split(packed, packed.patches, moved, places), packed)


def test_patches_are_packed_into_the_memory_that_is_given():
    rooms = []

    def make_rows(count, width):
        rooms.append(torch.zeros((count, width), dtype=torch.uint8))
        return rooms[0]

    packed = pack(PICTURES, SPEC, make_rows)
    assert packed.patches is rooms[0]
    np.testing.assert_array_equal(packed.patches, np.concatenate([p.patches for p in PICTURES]))


class FakeCuda:
    """Stands for `torch.cuda`; records what is done to streams."""

    def __init__(self, monkeypatch):
        self.log, self.current = [], "passes"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "uploads")
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.Tensor, "record_stream", self.record_stream)
        empty = torch.empty
        monkeypatch.setattr(
            torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options)
        )
        move = torch.Tensor.to

        def to(tensor, device, **options):
            self.log.append(("copy", self.current, tensor.dtype, options["non_blocking"]))
            return move(tensor, device, copy=True)

        monkeypatch.setattr(torch.Tensor, "to", to)

    @contextlib.contextmanager
    def stream(self, stream):
        self.current = stream
        yield
        self.current = "passes"

    def wait_stream(self, stream):
        self.log.append(("wait", stream))

    def record_stream(self, tensor, stream=None):
        self.log.append(("record", self.current))


def test_copies_run_on_their_own_stream_and_the_pass_waits_for_them(monkeypatch):
    packed = pack(PICTURES, SPEC)
    with monkeypatch.context() as patch:
        cuda = FakeCuda(patch)
        on_device = upload.Uploader(torch.device("cpu"))(packed)
    assert_equal(on_device, packed)
    assert cuda.log == [
        *[("copy", "uploads", torch.uint8, True)] * 2,
        ("wait", "uploads"),
        *[("record", "passes")] * 2,
    ]


def test_shared_prefix_is_refused(monkeypatch):
    packed = pack(TEXTS, SPEC)
    packed = replace(packed, cu_seqlens=packed.cu_seqlens + 3)
    with monkeypatch.context() as patch:
        FakeCuda(patch)
        with pytest.raises(ValueError, match="shared prefix"):
            upload.Uploader(torch.device("cpu"))(packed)
