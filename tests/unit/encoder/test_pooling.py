import pytest
import torch

from lensemble.encoder.pooling import normalize, pool

# Hidden state = position, as in (0, 0), (1, 10), (2, 20), ...
HIDDEN = torch.arange(6, dtype=torch.float32)[:, None] * torch.tensor([1.0, 10.0])
ENDS = torch.tensor([0, 3, 4, 6], dtype=torch.int32)


def test_last_token_is_each_items_last():
    assert pool(HIDDEN, ENDS, "last_token").tolist() == [[2, 20], [3, 30], [5, 50]]


def test_mean_is_over_each_items_own_tokens():
    assert pool(HIDDEN, ENDS, "mean").tolist() == [[1, 10], [3, 30], [4.5, 45]]


def test_mean_is_taken_in_float32():
    hidden = torch.full((1000, 1), 1.0078125, dtype=torch.bfloat16)  # a sum in bf16 would stick
    pooled = pool(hidden, torch.tensor([0, 1000], dtype=torch.int32), "mean")
    assert pooled.item() == pytest.approx(1.0078125, abs=1e-6)


def test_normalized_prefix_equals_prefix_of_the_raw_vector():
    raw = torch.tensor([[3.0, 4.0, 12.0]])
    assert normalize(raw[:, :2]).tolist() == [pytest.approx([0.6, 0.8])]
    assert normalize(normalize(raw)[:, :2]).tolist() == [pytest.approx([0.6, 0.8])]
