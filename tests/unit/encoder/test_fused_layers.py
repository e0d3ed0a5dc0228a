"""Fused layers against Transformers' own, with the same random weights."""

import copy

import numpy as np
import pytest
import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.fused_layers import RMSNorm, TextLayer, fuse
from lensemble.encoder.pytorch.torch_engine import Encoder
from lensemble.encoder.synthetic_items import synthetic_mix


@pytest.fixture
def encoder(pipeline):
    """Of a model as Transformers loads it, with norms that are not all ones."""
    from transformers import Qwen3VLModel

    checkpoint: Checkpoint = pipeline.checkpoint
    model = Qwen3VLModel.from_pretrained(checkpoint.folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.data.uniform_(0.5, 1.5, generator=generator)
    return Encoder(model, checkpoint)


def fused(encoder: Encoder) -> Encoder:
    """The same encoder with fused layers."""
    twin = copy.copy(encoder)
    twin.model = copy.deepcopy(encoder.model)
    fuse(twin.model)
    return twin


def vectors(encoder: Encoder) -> np.ndarray:
    """Of texts and a picture, packed with their prefix shared."""
    packed = encoder.pack(probe(encoder.input_spec))
    with torch.inference_mode():
        return encoder.forward(packed).numpy()


def test_vectors_are_those_of_transformers_layers(encoder):
    np.testing.assert_allclose(vectors(fused(encoder)), vectors(encoder), atol=2e-6)


def test_bf16_is_as_near_to_fp32_as_with_transformers_layers(encoder):
    right = vectors(encoder)
    encoder.model.to(torch.bfloat16)
    own, ours = ((vectors(one) * right).sum(axis=1).min() for one in (encoder, fused(encoder)))
    # Both round, in another order; what would be wrong is far more than half as much again.
    assert 1 - ours < 1.5 * (1 - own) + 1e-6


def test_every_layer_is_replaced_and_no_weight_is_there_twice(encoder):
    before = sum(p.numel() for p in encoder.model.parameters())
    model = fused(encoder).model
    assert {type(layer) for layer in model.language_model.layers} == {TextLayer}
    assert isinstance(model.language_model.norm, RMSNorm)
    after = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
    after -= sum(t.numel() for t in encoder.model.buffers())
    heads = sum(
        layer.norm_heads.numel() - 2 * layer.head_dim for layer in model.language_model.layers
    )
    assert after - heads == before


def test_weights_follow_the_model_to_another_precision(encoder):
    model = fused(encoder).model.to(torch.bfloat16)
    assert model.language_model.layers[0].qkv.weight.dtype == torch.bfloat16


def test_bias_that_qwen3_vl_has_not_is_refused(encoder):
    layer = encoder.model.language_model.layers[0]
    layer.self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="attention_bias is true; expected"):
        TextLayer(layer)


def test_the_served_encoder_is_fused(pipeline):
    assert isinstance(pipeline.encoder.model.language_model.layers[0], TextLayer)
