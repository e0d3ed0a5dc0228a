"""Variants give the vectors of the encoder that is served, and apply only inside their context."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu.measuring.attention_trials import HEADS, AttentionTrial, flash_forward
from benchmarks.gpu.measuring.inputs import mixed_features, text_features
from benchmarks.gpu.measuring.variants import compiled, direct_attention, graph_of, text_pass
from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import fused_layers
from lensemble.encoder.pytorch.fused_layers import TextLayer
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.settings import Settings


@pytest.fixture(scope="module")
def encoder(checkpoint):
    from lensemble.checkpoint import Checkpoint

    settings = Settings(checkpoint=checkpoint, dtype="fp32", threads=1)
    return TorchEngine.load(Checkpoint.open(checkpoint), settings)


def test_text_pass_gives_the_vectors_of_forward(encoder):
    packed = pack([text_features(n, n) for n in (5, 32, 90)], encoder.input_spec)
    expected = encoder.forward(packed)
    assert torch.equal(text_pass(encoder, packed), expected)
    assert torch.equal(graph_of(encoder, packed)(), expected)


def test_direct_attention_is_called_by_both_towers(encoder, monkeypatch):
    packed = pack(mixed_features(4, encoder.input_spec, 128), encoder.input_spec)
    expected = encoder.forward(packed)
    before = fused_layers.packed_attention
    with direct_attention():
        assert fused_layers.packed_attention is not before
        assert torch.equal(encoder.forward(packed), expected)
    assert fused_layers.packed_attention is before


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_compiled_layers_give_the_same_vectors(encoder):
    packed = pack([text_features(n, n) for n in (5, 32)], encoder.input_spec)
    expected, before = encoder.forward(packed), TextLayer.forward
    with compiled(TextLayer, "eager"):
        assert TextLayer.forward is not before
        torch.testing.assert_close(encoder.forward(packed), expected)
    assert TextLayer.forward is before


@pytest.mark.parametrize(("head_dim", "query_heads", "key_heads"), HEADS)
def test_flash_operation_takes_the_arguments(head_dim, query_heads, key_heads):
    """On tensors that only pretend to be on a GPU: names, order and shapes are those of PyTorch."""
    with FakeTensorMode():
        query, key, value = (
            torch.empty(466, heads, head_dim, device="cuda", dtype=torch.bfloat16)
            for heads in (query_heads, key_heads, key_heads)
        )
        boundaries = torch.zeros(5, device="cuda", dtype=torch.int32)
        out = flash_forward(query, key, value, boundaries, 300, 0.1, True)
    assert out.shape == (466, query_heads, head_dim)
    assert out.device.type == "cuda"


@pytest.mark.parametrize("causal", [False, True])
def test_trial_accepts_right_attention_and_finds_a_leak(causal):
    trial = AttentionTrial(64, 4, 2, torch.device("cpu"), torch.float32)
    assert float(trial.error(trial.packed, causal)["relative_error"]) < 1e-5
    trial.boundaries = trial.boundaries[[0, 2, 3, 4]]  # the first two segments become one
    with pytest.raises(ValueError, match="relative error"):
        trial.error(trial.packed, causal)
