"""Compares fused layers with Transformers' own, with the same random weights."""

import copy

import numpy as np
import pytest
import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.fused_layers import fuse_layers
from lensemble.encoder.pytorch.text_layer import RMSNorm, TextLayer
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.synthetic_items import synthetic_mix


@pytest.fixture
def encoder(pipeline):
    """An engine with Transformers' layers, whose norm weights are not all ones."""
    from transformers import Qwen3VLModel

    checkpoint: Checkpoint = pipeline.checkpoint
    model = Qwen3VLModel.from_pretrained(checkpoint.folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.data.uniform_(0.5, 1.5, generator=generator)
    return TorchEngine(model, checkpoint)


def fused(encoder: TorchEngine) -> TorchEngine:
    """Copies the engine and fuses the copy's layers."""
    twin = copy.copy(encoder)
    twin.model = copy.deepcopy(encoder.model)
    fuse_layers(twin.model)
    return twin


def vectors(encoder: TorchEngine) -> np.ndarray:
    """Encodes texts and a picture in one batch with a shared prefix."""
    packed = encoder.pack(synthetic_mix(encoder.input_spec))
    with torch.inference_mode():
        return encoder.forward(packed).numpy()


def test_vectors_equal_those_of_transformers_layers(encoder):
    np.testing.assert_allclose(vectors(fused(encoder)), vectors(encoder), atol=2e-6)


def test_bf16_is_as_close_to_fp32_as_with_transformers_layers(encoder):
    expected = vectors(encoder)
    encoder.model.to(torch.bfloat16)
    theirs, ours = (
        (vectors(engine) * expected).sum(axis=1).min() for engine in (encoder, fused(encoder))
    )
    # Both round, in a different order. A fault would make the distance far more than 1.5 times.
    assert 1 - ours < 1.5 * (1 - theirs) + 1e-6


def test_every_layer_is_replaced_and_no_weight_is_held_twice(encoder):
    before = sum(p.numel() for p in encoder.model.parameters())
    model = fused(encoder).model
    assert {type(layer) for layer in model.language_model.layers} == {TextLayer}
    assert isinstance(model.language_model.norm, RMSNorm)
    after = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
    after -= sum(t.numel() for t in encoder.model.buffers())
    # The norms' weights are repeated for each head.
    repeated = sum(
        layer.qk_norm_weight.numel() - 2 * layer.head_dim for layer in model.language_model.layers
    )
    assert after - repeated == before


def test_weights_follow_the_model_to_another_precision(encoder):
    model = fused(encoder).model.to(torch.bfloat16)
    assert model.language_model.layers[0].qkv.weight.dtype == torch.bfloat16


def test_layer_with_a_bias_is_refused(encoder):
    layer = encoder.model.language_model.layers[0]
    layer.self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="attention_bias is true; expected"):
        TextLayer(layer)


def test_loaded_engine_has_fused_layers(pipeline):
    assert isinstance(pipeline.encoder.model.language_model.layers[0], TextLayer)
