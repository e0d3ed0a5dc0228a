"""What tells right from wrong vectors."""

import numpy as np
import pytest
import torch

from benchmarks.gpu.measuring.comparison import exact_fp32, largest_change, smallest_cosine
from benchmarks.gpu.measuring.inputs import mixed_features

pytestmark = pytest.mark.slow  # it computes for tens of seconds


def test_smallest_cosine_is_that_of_the_worst_row():
    vectors = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    assert smallest_cosine(vectors, vectors) == 1.0
    assert smallest_cosine(vectors, vectors[[0, 0]]) == pytest.approx(0.6)


def test_others_do_not_change_a_vector_and_a_leak_does(plain_encoder):
    items = mixed_features(6, plain_encoder.input_spec, 256)
    assert largest_change(plain_encoder, items, leak=False) < 1e-5
    assert largest_change(plain_encoder, items, leak=True) > 1e-3


def test_fp32_is_exact_on_gpus_too():
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        exact_fp32()
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
