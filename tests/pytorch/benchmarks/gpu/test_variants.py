"""Variants give the vectors of the encoder that is served, and apply only inside their context."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu.measuring.attention_trials import HEADS, AttentionTrial
from benchmarks.gpu.measuring.inputs import text_features
from benchmarks.gpu.measuring.variants import attention_by, compiled
from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch.attention.varlen_kernels import (
    attend,
    attend_with_sdpa,
    attention_shapes,
    flash_forward,
    varlen_attn,
)
from lensemble.encoder.pytorch.text_layer import TextLayer

pytestmark = pytest.mark.slow  # it computes for tens of seconds


@pytest.fixture
def packed(plain_encoder):
    return pack([text_features(n, n) for n in (5, 32, 90)], plain_encoder.input_spec)


def test_both_towers_use_one_kernel_of_attention(plain_encoder):
    used = []

    def kernel(query, *arguments):
        used.append(arguments[-1])  # causal in the text tower alone
        return query

    def run(shape):
        row = torch.zeros(3, shape.heads, shape.head_dim)
        keys = torch.zeros(3, shape.key_heads, shape.head_dim)
        assert attend(row, keys, keys, None, 3, None, shape.causal) is row

    shapes = attention_shapes(plain_encoder.model.config)
    with attention_by(plain_encoder, kernel):
        for shape in shapes:
            run(shape)
    assert used == [False, True]
    with pytest.raises((RuntimeError, TypeError)):  # the product's kernel again, which needs a GPU
        run(shapes[0])


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_compiled_layers_give_the_same_vectors(plain_encoder, packed):
    expected, before = plain_encoder.forward(packed), TextLayer.forward
    with compiled(TextLayer, "eager"):
        assert TextLayer.forward is not before
        torch.testing.assert_close(plain_encoder.forward(packed), expected)
    assert TextLayer.forward is before


@pytest.mark.parametrize("kernel", [varlen_attn, flash_forward])
@pytest.mark.parametrize(("head_dim", "query_heads", "key_heads"), HEADS)
def test_trial_calls_the_kernels_with_arguments_that_they_take(
    kernel, head_dim, query_heads, key_heads
):
    """On tensors that only pretend to be on a GPU."""
    with FakeTensorMode():
        device = torch.device("cuda")
        trial = AttentionTrial(head_dim, query_heads, key_heads, device, torch.bfloat16)
        rows = len(trial.query)
        out = kernel(trial.query, trial.key, trial.value, trial.boundaries, 300, None, True)
        assert out.shape == (rows, query_heads, head_dim)
        assert out.device.type == "cuda"


@pytest.mark.parametrize("causal", [False, True])
def test_trial_accepts_right_attention_and_finds_a_leak(causal):
    trial = AttentionTrial(64, 4, 2, torch.device("cpu"), torch.float32)
    assert float(trial.error(attend_with_sdpa, causal)["relative_error"]) < 1e-5
    trial.boundaries = trial.boundaries[[0, 2, 3, 4]]  # the first two segments become one
    with pytest.raises(ValueError, match="relative error"):
        trial.error(attend_with_sdpa, causal)
