"""Who computes a graph; what is computed is in tests/parity/test_onnx.py."""

from pathlib import Path

import pytest
import torch

from lensemble.encoder.onnx.onnx_engine import providers
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
FOLDER = Path("graphs")


def test_cpu_is_cpu_whatever_is_installed():
    assert providers(torch.device("cpu"), FOLDER, [TENSORRT, CUDA, CPU]) == [(CPU, {})]


def test_tensorrt_comes_first_and_keeps_its_engines():
    found = providers(torch.device("cuda:1"), FOLDER, [TENSORRT, CUDA, CPU])
    assert [name for name, _ in found] == [TENSORRT, CUDA, CPU]
    assert {options.get("device_id", "1") for _, options in found} == {"1"}
    assert found[0][1]["trt_engine_cache_path"] == str(FOLDER / "tensorrt")


def test_cuda_alone():
    assert [name for name, _ in providers(torch.device("cuda"), FOLDER, [CUDA, CPU])] == [CUDA, CPU]


def test_gpu_without_a_provider_is_refused():
    with pytest.raises(InvalidInputError, match=r"has CPUExec.*install onnxruntime-gpu"):
        providers(torch.device("cuda:0"), FOLDER, [CPU])


def test_settings_of_the_engine():
    assert Settings(checkpoint=FOLDER).graphs == FOLDER / "onnx"
    with pytest.raises(InvalidInputError, match="LENSEMBLE_ENGINE: 'tvm' is not one of"):
        Settings(checkpoint=FOLDER, engine="tvm")
    made = Settings.from_env(
        {"LENSEMBLE_CHECKPOINT": "a", "LENSEMBLE_ENGINE": "onnx", "LENSEMBLE_ONNX": "graphs"}
    )
    assert made.onnx == made.graphs == FOLDER
    assert Settings.from_env(made.to_env()) == made


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_run_on_a_gpu(checkpoint, tmp_path, pipeline):
    import numpy as np

    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder import choose_engine
    from lensemble.encoder.synthetic_items import probe
    from lensemble_export.onnx.export_graphs import export_graphs

    opened = Checkpoint.open(checkpoint)
    export_graphs(opened, tmp_path / "graphs")
    settings = Settings(checkpoint=checkpoint, engine="onnx", onnx=tmp_path / "graphs")
    encoder = choose_engine.load(opened, settings, "cuda:0")
    items = probe(encoder.geometry)
    for found, expected in zip(encoder.encode(items), pipeline.encoder.encode(items), strict=True):
        assert float(np.dot(found, expected)) > 0.9999
