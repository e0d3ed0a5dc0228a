"""Vectors with components of 8 bits or one bit."""

import numpy as np
import pytest

from lensemble_client import InvalidInputError, quantize

VECTORS = np.array([[0.5, -0.25, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]], np.float32)


def test_values_computed_by_hand():
    assert quantize(VECTORS, "int8").tolist() == [[127, -64, 0, 25], [0, 0, 0, 0]]
    assert quantize(VECTORS, "int8").dtype == np.int8
    assert quantize(VECTORS, "ubinary").tolist() == [[0b10010000], [0]]
    assert quantize(np.ones(9, np.float32), "ubinary").tolist() == [255, 128]
    assert quantize(VECTORS, "float") is VECTORS
    with pytest.raises(InvalidInputError, match="'int4'; expected one of float, int8, ubinary"):
        quantize(VECTORS, "int4")


def test_int8_keeps_cosines():
    vectors = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    small = quantize(vectors, "int8").astype(np.float32)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    np.testing.assert_allclose(small @ small.T, vectors @ vectors.T, atol=0.005)
