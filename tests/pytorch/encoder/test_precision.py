import numpy as np
import pytest
import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import precision
from lensemble.encoder.input_spec import check_features
from lensemble.encoder.pytorch.thread_count import ThreadCount
from lensemble.encoder.synthetic_items import synthetic_mix
from lensemble.settings import Settings
from lensemble_contract.errors import InternalError

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("setting", "device", "bf16_is_faster", "expected"),
    [
        ("fp32", "cuda", True, (FP32,)),
        ("bf16", "cpu", False, (BF16,)),
        ("auto", "cuda", False, (BF16,)),
        ("auto", "cpu", False, (FP32,)),
        ("auto", "cpu", True, (BF16, FP32)),
    ],
)
def test_precisions_depend_on_setting_device_and_cpu(
    monkeypatch, setting, device, bf16_is_faster, expected
):
    monkeypatch.setattr(precision, "bf16_is_faster", lambda: bf16_is_faster)
    assert precision.precisions_to_try(setting, torch.device(device)) == expected
    assert precision.trusted_precision(setting, torch.device(device)) == expected[-1]


@pytest.mark.parametrize(("bf16_s", "expected"), [(0.004, True), (0.009, False), (0.018, False)])
def test_bf16_must_be_clearly_faster(monkeypatch, bf16_s, expected):
    monkeypatch.setattr(precision, "_fastest_product", {BF16: bf16_s, FP32: 0.01}.__getitem__)
    assert precision.bf16_is_faster.__wrapped__() is expected


def test_synthetic_items_can_be_encoded(pipeline):
    items = synthetic_mix(pipeline.encoder.input_spec)
    for item in items:
        check_features(item, pipeline.encoder.input_spec)
    assert all(isinstance(v, np.ndarray) for v in pipeline.encoder.encode(items))


def test_vectors_with_an_error_do_not_agree(pipeline):
    encode, spec = pipeline.encoder.encode, pipeline.encoder.input_spec
    assert precision.vectors_agree(encode, encode, spec, "the same twice")
    assert not precision.vectors_agree(
        lambda items: [InternalError("the vector is not finite"), *encode(items)[1:]],
        encode,
        spec,
        "with an error",
    )


@pytest.mark.parametrize(("min_cosine", "expected"), [(0.999, BF16), (1.1, FP32)])
def test_cpu_uses_bf16_only_if_the_vectors_agree(checkpoint, monkeypatch, min_cosine, expected):
    monkeypatch.setattr(precision, "bf16_is_faster", lambda: True)
    monkeypatch.setattr(precision, "MIN_COSINE", min_cosine)
    from lensemble.encoder.pytorch import load_torch_engine

    # Timing passes is slow and not part of this test.
    monkeypatch.setattr(load_torch_engine, "measure_thread_count", lambda *_: ThreadCount(1))
    engine = load_torch_engine.load_torch_engine(
        Checkpoint.open(checkpoint), Settings(checkpoint=checkpoint)
    )
    assert engine.dtype is expected
