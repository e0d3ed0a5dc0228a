import numpy as np
import pytest
import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import precision, synthetic_items
from lensemble.encoder.packing import check
from lensemble.encoder.pytorch.torch_engine import Encoder
from lensemble.settings import Settings

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("wanted", "device", "pays", "expected"),
    [
        ("fp32", "cuda", True, (FP32,)),
        ("bf16", "cpu", False, (BF16,)),
        ("auto", "cuda", False, (BF16,)),
        ("auto", "cpu", False, (FP32,)),
        ("auto", "cpu", True, (BF16, FP32)),
    ],
)
def test_candidates_follow_setting_device_and_cpu(monkeypatch, wanted, device, pays, expected):
    monkeypatch.setattr(precision, "bf16_is_faster", lambda: pays)
    assert precision.precisions_to_try(wanted, torch.device(device)) == expected


@pytest.mark.parametrize(("bf16_s", "expected"), [(0.004, True), (0.009, False), (0.018, False)])
def test_bf16_has_to_be_clearly_faster(monkeypatch, bf16_s, expected):
    monkeypatch.setattr(precision, "_fastest", {BF16: bf16_s, FP32: 0.01}.__getitem__)
    assert precision.bf16_is_faster.__wrapped__() is expected


def test_probe_can_be_encoded(pipeline):
    items = synthetic_items.probe(pipeline.encoder.input_spec)
    for item in items:
        check(item, pipeline.encoder.input_spec)
    assert all(isinstance(v, np.ndarray) for v in pipeline.encoder.encode(items))


def test_vector_that_is_not_finite_speaks_against_bf16(pipeline):
    encoder = pipeline.encoder
    assert precision.agree(encoder.sound, encoder.sound, encoder.input_spec, "twice the same")
    assert not precision.agree(
        lambda items: encoder.sound(items)[1:], encoder.sound, encoder.input_spec, "one less"
    )


@pytest.mark.parametrize(("least", "expected"), [(0.999, BF16), (1.1, FP32)])
def test_cpu_takes_bf16_only_where_the_vectors_agree(checkpoint, monkeypatch, least, expected):
    monkeypatch.setattr(precision, "bf16_is_faster", lambda: True)
    monkeypatch.setattr(precision, "MIN_COSINE", least)
    encoder = Encoder.load(Checkpoint.open(checkpoint), Settings(checkpoint=checkpoint))
    assert encoder.dtype is expected
