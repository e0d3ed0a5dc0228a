"""The probe finds kernels that fail or compute something else, and names them and the cause."""

import copy
import logging
from dataclasses import replace

import pytest
import torch

from lensemble.encoder.pytorch.fused_layers import fuse_layers
from lensemble.encoder.pytorch.kernels import probe as probe_module
from lensemble.encoder.pytorch.kernels.layer_operations import PYTORCH
from lensemble.encoder.pytorch.kernels.probe import probe, text_calls, vision_calls
from lensemble.encoder.pytorch.kernels.requirements import MissingRequirement
from tests.pytorch.encoder.kernels.interpreter import interpreted_operations


@pytest.fixture(scope="module")
def model(pipelines):
    from transformers import Qwen3VLModel

    folder = pipelines["qwen3-vl-embedding"].checkpoint.folder
    model = Qwen3VLModel.from_pretrained(folder, dtype=torch.float32)
    fuse_layers(model)
    return model


@pytest.fixture
def layers(model):
    """A layer of each tower."""
    return model.language_model.layers[0], model.visual.blocks[0]


def all_calls(layers):
    text, vision = layers
    return text_calls(text) | vision_calls(vision)


@pytest.fixture(autouse=True)
def nothing_missing(monkeypatch):
    monkeypatch.setattr(probe_module, "missing_requirements", lambda: iter(()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_working_kernels_are_kept(layers, dtype, caplog):
    operations = interpreted_operations()
    calls = all_calls([copy.deepcopy(layer).to(dtype) for layer in layers])
    assert set(calls) == set(vars(operations))
    assert all(arguments[0].dtype == dtype for arguments in calls.values())
    assert probe("both", operations, calls) is operations
    assert caplog.text == ""


def test_biases_may_be_zeros(layers, caplog):
    block = copy.deepcopy(layers[1])
    torch.nn.init.zeros_(block.norm1.bias)
    operations = interpreted_operations()
    assert probe("vision", operations, vision_calls(block)) is operations, caplog.text


def test_probe_changes_no_weight(layers):
    before = [copy.deepcopy(layer.state_dict()) for layer in layers]
    probe("both", interpreted_operations(), all_calls(layers))
    for layer, state in zip(layers, before, strict=True):
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())


def turned_the_wrong_way(heads, tables):
    PYTORCH.vision_rotary(heads, (tables[0], -tables[1]))


def without_the_sum(residual, product, weight, eps):
    return PYTORCH.add_rms_norm(residual, product.clone(), weight, eps)


def not_finite(gate_up):
    return PYTORCH.swiglu(gate_up) * torch.nan


def not_finite_in_the_sum(residual, product, weight, bias, eps):
    out = PYTORCH.add_layer_norm(residual, product, weight, bias, eps)
    product[0, 0] = torch.nan
    return out


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("vision_rotary", turned_the_wrong_way),
        ("add_rms_norm", without_the_sum),
        ("swiglu", not_finite),
        ("add_layer_norm", not_finite_in_the_sum),
    ],
)
def test_kernel_that_computes_something_else_is_replaced(layers, name, wrong, caplog):
    operations = replace(interpreted_operations(), **{name: wrong})
    chosen = probe("text", operations, all_calls(layers))
    assert chosen == replace(operations, **{name: getattr(PYTORCH, name)})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"replaces the GPU kernels {name} (differs from PyTorch by" in record.message


def test_one_line_names_failed_kernels_and_what_is_missing(layers, caplog, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    missing = MissingRequirement("no C compiler", "apt install gcc")
    monkeypatch.setattr(probe_module, "missing_requirements", lambda: iter([missing]))
    operations = replace(interpreted_operations(), swiglu=no_compiler, add_rms_norm=no_compiler)
    chosen = probe("text", operations, text_calls(layers[0]))
    assert chosen.swiglu is PYTORCH.swiglu and chosen.add_rms_norm is PYTORCH.add_rms_norm
    assert chosen.qk_norm_rotary is operations.qk_norm_rotary
    (record,) = caplog.records
    assert record.message == (
        "text tower: PyTorch replaces the GPU kernels add_rms_norm, swiglu (RuntimeError: Failed "
        "to find C compiler.); on this machine: no C compiler"
    )


def test_without_any_working_kernel_the_tower_keeps_its_own_path(layers, caplog):
    def fails(*_):
        raise AssertionError

    operations = replace(
        interpreted_operations(), swiglu=fails, add_rms_norm=fails, qk_norm_rotary=fails
    )
    assert probe("text", operations, text_calls(layers[0])) is None
    assert "AssertionError: no message" in caplog.text


def test_other_activation_is_refused(layers):
    layer = copy.deepcopy(layers[0])
    layer.act = torch.nn.ReLU()
    with pytest.raises(ValueError, match="activation is ReLU\\(\\); expected SiLU"):
        text_calls(layer)
