import numpy as np
import pytest
import torch

from lensemble import precision
from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.encoder import Encoder
from lensemble.packing import check

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("wanted", "device", "has_bf16", "expected"),
    [
        ("fp32", "cuda", True, (FP32,)),
        ("bf16", "cpu", False, (BF16,)),
        ("auto", "cuda", False, (BF16,)),
        ("auto", "cpu", False, (FP32,)),
        ("auto", "cpu", True, (BF16, FP32)),
    ],
)
def test_candidates_follow_setting_device_and_cpu(monkeypatch, wanted, device, has_bf16, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    assert precision.candidates(wanted, torch.device(device)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_cpus_flags(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.cpu_has_bf16(tmp_path / "cpuinfo") is expected
    assert not precision.cpu_has_bf16(tmp_path / "missing")


def test_probe_can_be_encoded(pipeline):
    items = precision.probe(pipeline.encoder.geometry)
    for item in items:
        check(item, pipeline.encoder.geometry)
    assert all(isinstance(v, np.ndarray) for v in pipeline.encoder.encode(items))


def test_vector_that_is_not_finite_speaks_against_bf16(pipeline):
    encoder = pipeline.encoder
    assert precision.agree(encoder._sound, encoder._sound, encoder.geometry)
    assert not precision.agree(
        lambda items: encoder._sound(items)[1:], encoder._sound, encoder.geometry
    )


@pytest.mark.parametrize(("least", "expected"), [(0.999, BF16), (1.1, FP32)])
def test_cpu_takes_bf16_only_where_the_vectors_agree(checkpoint, monkeypatch, least, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "MIN_COSINE", least)
    encoder = Encoder.load(Checkpoint.open(checkpoint), Settings(checkpoint=checkpoint))
    assert encoder.dtype is expected
