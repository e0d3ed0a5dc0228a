import pytest
import torch

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import text_layer, vision_layers
from lensemble.encoder.pytorch.attention import packed_attention as attention
from lensemble_client import Item
from tests.pictures import encode, textured

BOUNDARIES = torch.tensor([0, 3, 6, 10, 11], dtype=torch.int32)


def tensors(heads: int, key_heads: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(1, h, 11, 8, generator=generator) for h in (heads, key_heads, key_heads)
    )


def dense(query, key, value, causal):
    """Attention over all tokens, with a mask that keeps the segments apart."""
    segment = torch.bucketize(torch.arange(11), BOUNDARIES[1:], right=True)
    mask = segment[:, None] == segment[None]
    if causal:
        mask &= torch.ones(11, 11, dtype=torch.bool).tril()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_segments_see_only_themselves(causal, key_heads):
    query, key, value = tensors(4, key_heads)
    out, _ = attention.packed_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        is_causal=causal,
        cu_seq_lens_q=BOUNDARIES,
        max_length_q=4,
    )
    torch.testing.assert_close(out, dense(query, key, value, causal), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"attention_mask": None},
        {"attention_mask": torch.ones(1, 11), "cu_seq_lens_q": BOUNDARIES, "max_length_q": 4},
    ],
)
def test_call_that_would_mix_up_items_is_refused(arguments):
    with pytest.raises(ValueError, match="packed attention"):
        attention.packed_attention(torch.nn.Module(), *tensors(2, 2), **arguments)


@pytest.mark.parametrize("layers", ["served", "transformers"])
def test_one_call_per_layer_in_both_towers(layers, pipeline, plain_encoder, monkeypatch):
    """Pictures must not be split and texts not padded, even if Transformers changes inside."""
    calls = []

    def counting(module, query, *args, **kwargs):
        calls.append((bool(module.is_causal), query.shape[2]))
        return packed_attention(module, query, *args, **kwargs)

    packed_attention = attention.packed_attention
    encoder = pipeline.encoder if layers == "served" else plain_encoder
    for layers_module in (text_layer, vision_layers):
        monkeypatch.setattr(layers_module, "packed_attention", counting)
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, counting)
    items = [
        Item("words"),
        Item(images=(encode(textured(96, 64)), encode(textured(64, 128)))),
        Item("more words", (encode(textured(64, 64)),)),
    ]
    features = [pipeline.preprocess(item) for item in items]
    encoder.forward(pack(features, encoder.input_spec))
    tokens = sum(len(f.input_ids) for f in features)
    patches = sum(len(f.patches) for f in features)
    config = encoder.model.config
    assert (
        calls
        == [(False, patches)] * config.vision_config.depth
        + [(True, tokens)] * config.text_config.num_hidden_layers
    )
