"""Attention by tables: who sees whom, by hand and against the loop over segments."""

import numpy as np
import pytest
import torch

from lensemble.encoder import attention_graph
from lensemble.encoder.attention_table import Blocks, alike
from lensemble.encoder.onnx.graph_inputs import pooled
from lensemble.encoder.pytorch.attention_cpu import per_segment


def tables(made):
    return Blocks(**{name: torch.from_numpy(values) for name, values in made.items()})


def test_pictures_see_themselves():
    made = attention_graph.whole(np.array([2, 3]))
    assert made["queries"].tolist() == [[0, 1, 0], [2, 3, 4]]
    assert made["keys"].tolist() == made["queries"].tolist()
    assert made["seen"].tolist() == [2, 3]
    assert made["back"].tolist() == [0, 1, 3, 4, 5]


def test_tokens_see_what_stands_before_them():
    made = attention_graph.causal(np.array([0, 1, 3]))
    assert made["queries"].tolist() == [[0, 0], [1, 2]]
    assert made["seen"].tolist() == [[1, 1], [1, 2]]
    assert made["back"].tolist() == [0, 2, 3]


def test_what_all_begin_with_is_seen_by_all():
    made = attention_graph.causal(np.array([2, 3, 6]))  # two shared, then one token, then three
    assert made["queries"].tolist() == [[0, 1, 0], [2, 2, 2], [3, 4, 5]]
    assert made["keys"][1, :3].tolist() == [0, 1, 2]
    assert made["keys"][2].tolist() == [0, 1, 3, 4, 5]
    assert made["seen"].tolist() == [[1, 2, 2], [3, 3, 3], [3, 4, 5]]
    assert made["back"].tolist() == [0, 1, 3, 6, 7, 8]


def test_a_shared_beginning_longer_than_what_follows():
    made = attention_graph.causal(np.array([4, 5]))
    assert made["queries"].tolist() == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert made["keys"][1].tolist() == [0, 1, 2, 3, 4]
    assert made["back"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    ("boundaries", "causal"),
    [([0, 3, 4, 11], True), ([0, 3, 4, 11], False), ([2, 3, 7, 11], True), ([0, 11], True)],
)
def test_attention_is_that_of_the_loop_over_segments(boundaries, causal, key_heads):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 11, 8, generator=generator) for heads in (4, key_heads, key_heads)
    )
    expected = per_segment(query, key, value, torch.tensor(boundaries), 0.3, causal)[0]
    bounds = np.array(boundaries)
    table = tables(
        attention_graph.causal(bounds) if causal else attention_graph.whole(np.diff(bounds))
    )
    found = table.attend(*(one[0].transpose(0, 1) for one in (query, key, value)), 0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_like_lengths_go_together():
    assert [*alike([10, 3, 11, 3, 100])] == [[1, 3], [0, 2], [4]]
    assert [*alike([5])] == [[0]]
    assert [*alike([])] == []
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    groups = [*alike(lengths.tolist())]
    assert sorted(n for group in groups for n in group) == [*range(200)]
    for group in groups:
        squares = lengths[group] ** 2
        assert len(group) * squares.max() <= attention_graph._WASTE * squares.sum()


def test_pooled_rows():
    rows, weights = pooled(np.array([0, 2, 5]), "last_token")
    assert (rows.tolist(), weights.tolist()) == ([[1], [4]], [[1], [1]])
    rows, weights = pooled(np.array([0, 1, 3]), "mean")
    assert rows.tolist() == [[0, 0], [1, 2]]
    assert weights.tolist() == [[1, 0], [0.5, 0.5]]
