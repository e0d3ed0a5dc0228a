"""A vector does not depend on what it was batched with."""

import numpy as np
import pytest

from lensemble.encoder.pytorch.torch_engine import TorchEngine
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import mixed_batch


@pytest.mark.parametrize("profile", [EMBEDDING, MEAN])
@pytest.mark.parametrize("budgets", [(16_384, 32_768), (300, 1000)])
def test_vector_alone_equals_vector_in_a_batch_of_32(pipelines, monkeypatch, profile, budgets):
    pipeline = pipelines[profile]
    engine: TorchEngine = pipeline.encoder
    monkeypatch.setattr(engine, "_batch_tokens", budgets[0])
    monkeypatch.setattr(engine, "_batch_patches", budgets[1])
    items = mixed_batch()
    assert len(items) == 32
    together = pipeline.embed(items)
    for item, vector in zip(items, together, strict=True):
        (alone,) = pipeline.embed([item])
        np.testing.assert_allclose(vector, alone, atol=1e-5)
