import numpy as np
import pytest
import torch

from lensemble.encoder.pooling import cut_vector, normalize, pool

# The hidden states are (0, 0), (1, 10), (2, 20), ...
HIDDEN = torch.arange(6, dtype=torch.float32)[:, None] * torch.tensor([1.0, 10.0])
BOUNDARIES = torch.tensor([0, 3, 4, 6], dtype=torch.int32)


def test_last_token_pooling_takes_the_last_row_of_each_item():
    assert pool(HIDDEN, BOUNDARIES, "last_token").tolist() == [[2, 20], [3, 30], [5, 50]]


def test_mean_pooling_averages_the_rows_of_each_item():
    assert pool(HIDDEN, BOUNDARIES, "mean").tolist() == [[1, 10], [3, 30], [4.5, 45]]


def test_mean_is_computed_in_float32():
    # A sum in bf16 would stop growing.
    hidden = torch.full((1000, 1), 1.0078125, dtype=torch.bfloat16)
    pooled = pool(hidden, torch.tensor([0, 1000], dtype=torch.int32), "mean")
    assert pooled.item() == pytest.approx(1.0078125, abs=1e-6)


def test_cutting_a_normalized_vector_equals_cutting_the_raw_one():
    raw = torch.tensor([[3.0, 4.0, 12.0]])
    assert normalize(raw[:, :2]).tolist() == [pytest.approx([0.6, 0.8])]
    assert normalize(normalize(raw)[:, :2]).tolist() == [pytest.approx([0.6, 0.8])]


def test_cut_vector_keeps_the_full_length_unless_asked():
    vector = np.array([0.6, 0.0, 0.8], np.float32)
    assert cut_vector(vector, None) is vector
    assert cut_vector(vector, 3) is vector
    assert cut_vector(vector, 2).tolist() == [1, 0]
