"""Choice of execution providers; tests/parity/test_onnx.py tests the results."""

from pathlib import Path

import pytest
import torch

from lensemble.encoder.onnx import onnx_engine
from lensemble.encoder.onnx.onnx_engine import choose_providers, open_session
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
FOLDER = Path("graphs")


def test_cpu_uses_the_cpu_provider_whatever_is_installed():
    assert choose_providers(torch.device("cpu"), FOLDER, [TENSORRT, CUDA, CPU]) == [(CPU, {})]


def test_tensorrt_comes_first_and_stores_its_engines():
    chosen = choose_providers(torch.device("cuda:1"), FOLDER, [TENSORRT, CUDA, CPU])
    assert [name for name, _ in chosen] == [TENSORRT, CUDA, CPU]
    assert {options.get("device_id", "1") for _, options in chosen} == {"1"}
    assert chosen[0][1]["trt_engine_cache_path"] == str(FOLDER / "tensorrt")


def test_cuda_without_tensorrt():
    assert [name for name, _ in choose_providers(torch.device("cuda"), FOLDER, [CUDA, CPU])] == [
        CUDA,
        CPU,
    ]


def test_gpu_without_a_provider_is_refused():
    with pytest.raises(InvalidInputError, match=r"has CPUExec.*install onnxruntime-gpu"):
        choose_providers(torch.device("cuda:0"), FOLDER, [CPU])


@pytest.mark.parametrize(
    ("device", "used", "works"),
    [
        ("cuda:0", [CPU], False),
        ("cuda:0", [CUDA, CPU], True),  # TensorRT is optional
        ("cpu", [CPU], True),
    ],
)
def test_session_that_falls_back_to_the_cpu_is_refused(monkeypatch, device, used, works):
    """If a library of CUDA is missing, ONNX Runtime logs it and computes on the CPU."""

    class Session:
        def __init__(self, path, options, providers):
            self.asked = [name for name, _ in providers]

        def get_providers(self):
            return used

    runtime = onnx_engine.onnxruntime
    monkeypatch.setattr(runtime, "InferenceSession", Session)
    monkeypatch.setattr(runtime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    if works:
        session = open_session(FOLDER / "text.onnx", torch.device(device), 1)
        assert session.asked[-1] == CPU
        return
    with pytest.raises(InvalidInputError, match=r"'text.onnx' on the CPU; expected cuda:0: a lib"):
        open_session(FOLDER / "text.onnx", torch.device(device), 1)


def test_settings_of_the_engine():
    assert Settings(checkpoint=FOLDER).graphs == FOLDER / "onnx"
    with pytest.raises(InvalidInputError, match="LENSEMBLE_ENGINE: 'tvm'"):
        Settings(checkpoint=FOLDER, engine="tvm")
    settings = Settings.from_env(
        {"LENSEMBLE_CHECKPOINT": "a", "LENSEMBLE_ENGINE": "onnx", "LENSEMBLE_ONNX": "graphs"}
    )
    assert settings.onnx == settings.graphs == FOLDER
    assert Settings.from_env(settings.to_env()) == settings


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_run_on_a_gpu(checkpoint, tmp_path, pipeline):
    import numpy as np

    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder import choose_engine
    from lensemble.encoder.synthetic_items import synthetic_mix
    from lensemble_export.onnx.export_graphs import export_graphs

    opened = Checkpoint.open(checkpoint)
    export_graphs(opened, tmp_path / "graphs")
    settings = Settings(checkpoint=checkpoint, engine="onnx", onnx=tmp_path / "graphs")
    encoder = choose_engine.load_engine(opened, settings, "cuda:0")
    items = synthetic_mix(encoder.input_spec)
    for actual, expected in zip(encoder.encode(items), pipeline.encoder.encode(items), strict=True):
        assert float(np.dot(actual, expected)) > 0.9999
