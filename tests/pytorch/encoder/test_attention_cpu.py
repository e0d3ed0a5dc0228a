"""Attention by groups of segments, compared with attention over all tokens and a mask."""

import pytest
import torch

from lensemble.encoder.pytorch.attention import attention_cpu
from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment


def row(boundaries, heads=4, key_heads=2):
    generator = torch.Generator().manual_seed(0)
    tokens = int(boundaries[-1])
    return [
        torch.randn(1, h, tokens, 8, generator=generator) for h in (heads, key_heads, key_heads)
    ]


def dense(query, key, value, boundaries, causal):
    """Attention over all tokens with a mask; every segment sees the shared prefix."""
    tokens = int(boundaries[-1])
    position = torch.arange(tokens)
    segment = torch.bucketize(position, boundaries, right=True)  # 0 is the shared prefix
    mask = (segment[:, None] == segment[None]) | (segment[None] == 0)
    if causal:
        mask &= position[:, None] >= position[None]
    key, value = (tensor.repeat_interleave(2, 1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("prefix", "causal"), [(0, True), (5, True), (0, False)])
@pytest.mark.parametrize("lengths", [[7], [3, 3, 3], [20, 3, 16, 17, 1, 40, 3], list(range(1, 50))])
def test_each_segment_sees_itself_and_the_prefix(lengths, prefix, causal):
    boundaries = (prefix + torch.tensor([0, *lengths]).cumsum(0)).int()
    query, key, value = row(boundaries)
    out = attend_per_segment(query, key, value, boundaries, 0.3, causal)
    expected = dense(query, key, value, boundaries, causal)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


def test_similar_lengths_share_one_call(monkeypatch):
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        calls.append(tuple(query.shape))
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    boundaries = torch.tensor([5, 12, 29, 30, 61, 77]).int()  # 7, 17, 1, 31 and 16 tokens
    query, key, value = row(boundaries)
    attend_per_segment(query, key, value, boundaries, 0.3, True)
    # The prefix; then 7, 1 and 16 padded to 16, and 17 and 31 padded to 31.
    assert calls == [(1, 4, 5, 8), (3, 4, 16, 8), (2, 4, 31, 8)]


def test_pictures_of_different_sizes_are_not_padded():
    """In full attention the padding would be seen too."""
    boundaries = torch.tensor([0, 7, 14, 16]).int()
    plan = attention_cpu._plan_neighbours(tuple(boundaries.tolist()), torch.device("cpu"))
    assert [(group.count, group.length) for group in plan.groups] == [(2, 7), (1, 2)]
    with pytest.raises(ValueError, match="must not see what follows"):
        attend_per_segment(*row(boundaries), boundaries + 3, 0.3, False)


def test_gradients_flow_through_plans_that_serving_has_cached():
    boundaries = torch.tensor([4, 9, 27, 30]).int()
    query, key, value = row(boundaries)
    with torch.inference_mode():
        served = attend_per_segment(query, key, value, boundaries, 0.3, True)
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    trained = attend_per_segment(*leaves, boundaries, 0.3, True)
    torch.testing.assert_close(trained, served)
    trained.sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_only_short_masks_are_cached():
    attention_cpu._cached_mask.cache_clear()
    for length in (8, attention_cpu._LONGEST_CACHED_MASK + 1):
        mask = attention_cpu._prefix_mask(length, 3, torch.float32, torch.device("cpu"))
        assert mask.shape == (length, 3 + length)
        assert mask[0].tolist() == [0.0] * 4 + [-torch.inf] * (length - 1)
        assert not mask[-1].any()
    assert attention_cpu._cached_mask.cache_info().currsize == 1
