"""The formula for floating-point operations, against PyTorch's own count."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.step import flop, mixed_features, picture_features, text_features
from lensemble.encoder.packing import pack


@pytest.mark.parametrize("kind", ["text", "picture", "mixed"])
def test_formula_counts_what_pytorch_counts(plain_encoder, kind):
    encoder = plain_encoder
    items = {
        "text": [text_features(200)],
        "picture": [picture_features(448, 320, encoder)],
        "mixed": mixed_features(6, encoder, 512),
    }[kind]
    # The counter knows matrix products, not the CPU's fused attention: that is taken apart.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder.forward(pack(items, encoder.input_spec))
    # PyTorch counts the whole square of causal attention, the formula the half that is computed.
    text = encoder.model.config.text_config
    query = text.num_attention_heads * text.head_dim
    skipped = sum(text.num_hidden_layers * 2 * len(item.input_ids) ** 2 * query for item in items)
    assert flop(items, "tiny") + skipped == pytest.approx(counter.get_total_flops(), rel=0.01)
