"""Compares whole towers on the kernels' operations with Transformers' own layers, same weights."""

import copy

import numpy as np
import pytest
import torch

from lensemble.encoder.pytorch.fused_layers import fuse_layers, use_operations
from lensemble.encoder.pytorch.kernels.layer_operations import PYTORCH, PendingSum
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.synthetic_items import synthetic_mix, synthetic_picture, synthetic_texts
from tests.pytorch.encoder.kernels.interpreter import interpreted_operations, taken_counts


@pytest.fixture(scope="module")
def plain(pipelines):
    """An engine with Transformers' layers, whose norm weights are not all ones."""
    from transformers import Qwen3VLModel

    checkpoint = pipelines["qwen3-vl-embedding"].checkpoint
    model = Qwen3VLModel.from_pretrained(checkpoint.folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        if "norm" in name:
            low, high = (0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)
            weight.data.uniform_(low, high, generator=generator)
    return TorchEngine(model, checkpoint)


def with_operations(plain, operations):
    engine = copy.copy(plain)
    engine.model = copy.deepcopy(plain.model)
    fuse_layers(engine.model)
    for tower in (engine.model.language_model, engine.model.visual):
        use_operations(tower, operations)
    return engine


def vectors(engine, items):
    with torch.inference_mode():
        return engine.forward(engine.pack(items)).numpy()


def few_items(spec):
    """Texts and pictures of few tokens, because the interpreter is slow."""
    side = 2 * spec.merge_size
    return [*synthetic_texts((3, 9), spec), *(synthetic_picture(n * side, spec) for n in (1, 2))]


def test_kernels_give_the_vectors_of_transformers_layers(plain):
    items = few_items(plain.input_spec)
    engine = with_operations(plain, interpreted_operations())
    taken_counts()
    np.testing.assert_allclose(vectors(engine, items), vectors(plain, items), atol=2e-6)
    config = plain.model.config
    layers, depth = config.text_config.num_hidden_layers, config.vision_config.depth
    deepstack = len(config.vision_config.deepstack_visual_indexes)
    assert taken_counts() == {
        # The first norm of a tower, and the one after DeepStack's features, take no sum.
        "add_rms_norm_kernel": 2 * layers - min(deepstack, layers),
        "qk_norm_rotary_kernel": layers,
        "swiglu_kernel": layers,
        "add_layer_norm_kernel": 2 * depth - 1,
        "vision_rotary_kernel": depth,
    }


@pytest.mark.parametrize("operations", ["pytorch", "interpreted"])
def test_bf16_is_as_close_to_fp32_as_with_transformers_layers(plain, operations):
    spec = plain.input_spec
    items = synthetic_mix(spec) if operations == "pytorch" else few_items(spec)
    expected = vectors(plain, items)
    theirs = copy.copy(plain)
    theirs.model = copy.deepcopy(plain.model).to(torch.bfloat16)
    ours = with_operations(plain, PYTORCH if operations == "pytorch" else interpreted_operations())
    ours.model.to(torch.bfloat16)
    distances = [1 - (vectors(e, items) * expected).sum(axis=1).min() for e in (theirs, ours)]
    # Both round, in a different order; the interpreter truncates, which is twice as coarse. A fault
    # would make the distance many times larger.
    factor = 1.5 if operations == "pytorch" else 4
    assert distances[1] < factor * distances[0] + 1e-6


def test_pytorch_path_of_the_operations_gives_the_same_vectors(plain):
    items = synthetic_mix(plain.input_spec)
    engine = with_operations(plain, PYTORCH)
    np.testing.assert_allclose(vectors(engine, items), vectors(plain, items), atol=2e-6)


def test_layers_return_to_their_own_path(plain):
    items = few_items(plain.input_spec)
    engine = with_operations(plain, None)
    before = vectors(engine, items)
    for tower in (engine.model.language_model, engine.model.visual):
        use_operations(tower, PYTORCH)
        use_operations(tower, None)
    np.testing.assert_array_equal(vectors(engine, items), before)


def test_a_layer_leaves_its_input_as_it_is(plain):
    engine = with_operations(plain, PYTORCH)
    text, vision = engine.model.language_model, engine.model.visual
    hidden = torch.randn(1, 5, text.config.hidden_size)
    patches = torch.randn(4, vision.config.hidden_size)
    given = hidden.clone(), patches.clone()
    ends, patch_ends = (torch.tensor([0, n], dtype=torch.int32) for n in (5, 4))
    positions = torch.arange(5).expand(3, 1, 5)
    with torch.inference_mode():
        out = text.layers[0](hidden, text.rotary_emb(hidden, positions), ends, 5)
        tables = vision.rotary_pos_emb(patches, torch.zeros(4, 2, dtype=torch.int64))
        patch_out = vision.blocks[0](patches, patch_ends, tables, 4)
    assert isinstance(out, PendingSum) and isinstance(patch_out, PendingSum)
    assert torch.equal(hidden, given[0]) and torch.equal(patches, given[1])
