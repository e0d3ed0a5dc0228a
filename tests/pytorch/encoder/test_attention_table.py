"""Attention by tables, compared with tables made by hand and with the loop over segments."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from lensemble.encoder import attention_table
from lensemble.encoder.attention_table import (
    AttentionTable,
    causal_attention,
    full_attention,
    group_by_length,
)
from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment


def test_patches_see_all_of_their_picture():
    table = full_attention(np.array([2, 3]))
    assert table.query_rows.tolist() == [[0, 1, 0], [2, 3, 4]]
    assert table.key_rows.tolist() == table.query_rows.tolist()
    assert table.visible_keys.tolist() == [2, 3]
    assert table.result_places.tolist() == [0, 1, 3, 4, 5]


def test_tokens_see_themselves_and_what_precedes_them():
    table = causal_attention(np.array([0, 1, 3]))
    assert table.query_rows.tolist() == [[0, 0], [1, 2]]
    assert table.visible_keys.tolist() == [[1, 1], [1, 2]]
    assert table.result_places.tolist() == [0, 2, 3]


def test_shared_prefix_is_seen_by_all_segments():
    # A prefix of two tokens, then segments of one and of three.
    table = causal_attention(np.array([2, 3, 6]))
    assert table.query_rows.tolist() == [[0, 1, 0], [2, 2, 2], [3, 4, 5]]
    assert table.key_rows[1, :3].tolist() == [0, 1, 2]
    assert table.key_rows[2].tolist() == [0, 1, 3, 4, 5]
    assert table.visible_keys.tolist() == [[1, 2, 2], [3, 3, 3], [3, 4, 5]]
    assert table.result_places.tolist() == [0, 1, 3, 6, 7, 8]


def test_shared_prefix_may_be_longer_than_the_segments():
    table = causal_attention(np.array([4, 5]))
    assert table.query_rows.tolist() == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert table.key_rows[1].tolist() == [0, 1, 2, 3, 4]
    assert table.result_places.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    ("boundaries", "causal"),
    [([0, 3, 4, 11], True), ([0, 3, 4, 11], False), ([2, 3, 7, 11], True), ([0, 11], True)],
)
def test_attention_equals_the_loop_over_segments(boundaries, causal, key_heads):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 11, 8, generator=generator) for heads in (4, key_heads, key_heads)
    )
    expected = attend_per_segment(query, key, value, torch.tensor(boundaries), 0.3, causal)[0]
    bounds = np.array(boundaries)
    arrays = causal_attention(bounds) if causal else full_attention(np.diff(bounds))
    table = AttentionTable(
        *(torch.from_numpy(getattr(arrays, field.name)) for field in fields(AttentionTable))
    )
    actual = table.attend(*(tensor[0].transpose(0, 1) for tensor in (query, key, value)), 0.3)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_similar_lengths_are_grouped():
    assert [*group_by_length([10, 3, 11, 3, 100])] == [[1, 3], [0, 2], [4]]
    assert [*group_by_length([5])] == [[0]]
    assert [*group_by_length([])] == []
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    groups = [*group_by_length(lengths.tolist())]
    assert sorted(n for group in groups for n in group) == [*range(200)]
    for group in groups:
        squares = lengths[group] ** 2
        assert len(group) * squares.max() <= attention_table._MAX_PADDING_RATIO * squares.sum()
