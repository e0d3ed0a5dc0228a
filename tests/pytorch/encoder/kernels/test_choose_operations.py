"""A tower uses kernels if they agree and, with `auto`, make a pass faster."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import choose_operations as choose_module
from lensemble.encoder.pytorch.choose_operations import choose_operations
from lensemble.encoder.pytorch.fused_layers import fuse_layers
from lensemble.encoder.pytorch.kernels.layer_operations import PYTORCH
from lensemble.encoder.pytorch.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def loaded(pipelines):
    from transformers import Qwen3VLModel

    checkpoint = pipelines["qwen3-vl-embedding"].checkpoint
    model = Qwen3VLModel.from_pretrained(checkpoint.folder, dtype=torch.float32)
    fuse_layers(model)
    return TorchEngine(model, checkpoint)


@pytest.fixture
def engine(loaded):
    engine = copy.copy(loaded)
    engine.model = copy.deepcopy(loaded.model)
    return engine


@pytest.fixture(autouse=True)
def kernels_on_this_machine(monkeypatch):
    """PyTorch's functions stand for the kernels, in an object of their own."""
    monkeypatch.setattr(choose_module, "_gpu_operations", lambda: replace(PYTORCH))


def choose(engine, setting):
    """Chooses; returns the operations of the text tower and of the vision tower."""
    spec = engine.input_spec
    choose_operations(engine.model, setting, lambda items: engine.forward(pack(items, spec)), spec)
    text, vision = engine.model.language_model, engine.model.visual
    assert text.norm.operations is text.layers[-1].operations
    assert text.rotary_emb.makes_tables == (text.norm.operations is not None)
    assert vision.rotary_pos_emb.makes_tables == (vision.blocks[0].operations is not None)
    return text.layers[0].operations, vision.blocks[0].operations


def times(monkeypatch, engine, text, vision):
    """Lets a pass take these times: (own path, kernels), for texts and for pictures."""

    def seconds(run_pass, items):
        model = engine.model
        pictures = len(items[0].patches) > 0
        layer = (model.visual.blocks if pictures else model.language_model.layers)[0]
        return (vision if pictures else text)[layer.operations is not None]

    monkeypatch.setattr(choose_module, "_seconds", seconds)


def test_each_tower_uses_what_is_faster_for_it(engine, monkeypatch):
    times(monkeypatch, engine, text=(1.0, 0.7), vision=(1.0, 1.1))
    text, vision = choose(engine, "auto")
    assert text == PYTORCH and vision is None


def test_a_gain_within_the_noise_is_none(engine, monkeypatch):
    times(monkeypatch, engine, text=(1.0, 0.995), vision=(1.0, 0.98))
    text, vision = choose(engine, "auto")
    assert text is None and vision == PYTORCH


def test_on_times_nothing(engine, monkeypatch):
    monkeypatch.setattr(choose_module, "_seconds", None)
    assert choose(engine, "on") == (PYTORCH, PYTORCH)


def test_off_tries_nothing(engine, monkeypatch):
    monkeypatch.setattr(choose_module, "_gpu_operations", None)
    assert choose(engine, "off") == (None, None)


def test_without_the_compilers_package_towers_keep_their_own_path(engine, monkeypatch, caplog):
    monkeypatch.undo()
    module = "lensemble.encoder.pytorch.kernels.gpu_operations"
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    assert choose(engine, "on") == (None, None)
    assert "no GPU kernels: the package triton cannot be imported" in caplog.text


def test_vectors_that_differ_turn_the_kernels_off(engine, monkeypatch, caplog):
    """Each operation agrees alone, but the pass does not: the tower must not use them."""

    def late(gate_up):
        # Agrees on the probe's few rows only.
        out = PYTORCH.swiglu(gate_up)
        return out if len(out) <= 5 else -out

    wrong = replace(PYTORCH, swiglu=late)
    monkeypatch.setattr(choose_module, "_gpu_operations", lambda: wrong)
    text, vision = choose(engine, "on")
    assert text is None and vision is wrong
    assert "text tower: no GPU kernels: cosine to PyTorch is" in caplog.text


def test_pass_that_fails_turns_the_kernels_off(engine, monkeypatch, caplog):
    def fails_late(heads, tables):
        if len(heads) > 5:
            raise RuntimeError("no kernel image")
        PYTORCH.vision_rotary(heads, tables)

    wrong = replace(PYTORCH, vision_rotary=fails_late)
    monkeypatch.setattr(choose_module, "_gpu_operations", lambda: wrong)
    text, vision = choose(engine, "on")
    assert text is wrong and vision is None
    assert "vision tower: no GPU kernels: a pass with them fails: no kernel image" in caplog.text


def test_timed_pass_that_does_not_fit_into_memory_turns_the_kernels_off(
    engine, monkeypatch, caplog
):
    """Budgets are made smaller only later, when the engine warms up."""

    def seconds(run_pass, items):
        if len(items[0].patches):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1.0 if engine.model.language_model.layers[0].operations is None else 0.5

    monkeypatch.setattr(choose_module, "_seconds", seconds)
    text, vision = choose(engine, "auto")
    assert text == PYTORCH and vision is None
    assert "vision tower: no GPU kernels: a timed pass fails: CUDA out of memory" in caplog.text


def test_engine_on_a_cpu_uses_no_kernels(pipeline):
    assert pipeline.encoder.model.language_model.layers[0].operations is None
    assert pipeline.encoder.model.visual.blocks[0].operations is None
