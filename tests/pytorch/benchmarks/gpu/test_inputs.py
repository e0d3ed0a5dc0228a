"""The features that are measured, and their floating-point operations."""

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.measuring.inputs import flop, mixed_features, picture_features, text_features
from lensemble.encoder.input_spec import check_features
from lensemble.encoder.packing import pack

pytestmark = pytest.mark.slow  # it computes for tens of seconds


@pytest.mark.parametrize("kind", ["text", "picture", "mixed"])
def test_formula_counts_what_pytorch_counts(plain_encoder, kind):
    spec = plain_encoder.input_spec
    items = {
        "text": [text_features(200)],
        "picture": [picture_features(448, 320, spec)],
        "mixed": mixed_features(6, spec, 512),
    }[kind]
    # The counter knows matrix products, not the CPU's fused attention: that is taken apart.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        plain_encoder.forward(pack(items, spec))
    # PyTorch counts the whole square of causal attention, the formula the half that is computed.
    text = plain_encoder.model.config.text_config
    query = text.num_attention_heads * text.head_dim
    skipped = sum(text.num_hidden_layers * 2 * len(item.input_ids) ** 2 * query for item in items)
    assert flop(items, "tiny") + skipped == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_items_are_valid_and_different(plain_encoder):
    spec = plain_encoder.input_spec
    items = mixed_features(8, spec, 256)
    for item in items:
        check_features(item, spec)
    one, other = (picture_features(128, 256, spec, seed) for seed in (0, 1))
    assert (one.image_grid_thw == [[1, 8, 16]]).all()
    assert not np.array_equal(one.patches, other.patches)
    assert not np.array_equal(text_features(32, 0).input_ids, text_features(32, 1).input_ids)
