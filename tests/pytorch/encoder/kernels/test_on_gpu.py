"""The kernels on a real GPU; without one these tests are skipped."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch.fused_layers import fuse_layers, use_operations
from lensemble.encoder.pytorch.gpu_engine import GpuEngine
from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations, linear_gelu
from lensemble.encoder.pytorch.kernels.launcher import Launcher
from lensemble.encoder.pytorch.kernels.layer_operations import PYTORCH
from lensemble.encoder.pytorch.kernels.probe import probe, text_calls, vision_calls
from lensemble.encoder.synthetic_items import synthetic_mix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def model(pipelines):
    from transformers import Qwen3VLModel

    folder = pipelines["qwen3-vl-embedding"].checkpoint.folder
    model = Qwen3VLModel.from_pretrained(folder, dtype=torch.float32)
    fuse_layers(model)
    return model.cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kernel_agrees_with_pytorch(model, dtype):
    layers = model.language_model.layers[0], model.visual.blocks[0]
    text, vision = (copy.deepcopy(layer).to(dtype) for layer in layers)
    operations = gpu_operations(Launcher())
    for _ in range(2):  # the second time without Triton's search for a build
        calls = text_calls(text) | vision_calls(vision)
        assert probe("both", operations, calls) is operations


def test_last_of_many_rows_is_reached():
    """Beyond 2^31 numbers, and in bf16 for 8.6 GB."""
    free, _total = torch.cuda.mem_get_info()
    if free < 20 * 2**30:
        pytest.skip("needs 20 GiB of free memory on the GPU")
    rows = 2**31 // 12_288 + 3
    gate_up = torch.zeros(rows, 2 * 6_144, dtype=torch.bfloat16, device="cuda")
    gate_up[-1] = torch.randn(2 * 6_144)
    out = gpu_operations(Launcher()).swiglu(gate_up)
    expected = PYTORCH.swiglu(gate_up[-1:].float())
    torch.testing.assert_close(out[-1:].float(), expected, rtol=2**-7, atol=1e-5)
    assert not out[:-1].any()


def test_gelu_of_cublas_has_the_tanh_form():
    """In fp32 both forms can be told apart: they differ by up to 4.7e-4."""
    x = torch.linspace(-6, 6, 64 * 64, device="cuda").view(64, 64)
    weight, bias = torch.eye(64, device="cuda"), torch.zeros(64, device="cuda")
    result = linear_gelu(x, weight, bias)
    assert (result - F.gelu(x, approximate="tanh")).abs().max() < 1e-5
    assert (result - F.gelu(x)).abs().max() > 3e-4


def test_vectors_equal_those_of_the_layers_own_path(model, pipeline):
    checkpoint = pipeline.checkpoint
    engine = GpuEngine(copy.deepcopy(model), checkpoint)
    packed = pack(synthetic_mix(engine.input_spec), engine.input_spec)
    expected = engine.forward(packed)
    for tower in (engine.model.language_model, engine.model.visual):
        use_operations(tower, gpu_operations(Launcher()))
    torch.testing.assert_close(engine.forward(packed), expected, rtol=0, atol=5e-6)
