"""Vectors as NumPy arrays: their type, unit length, and cutting.

The encoder normalizes and cuts its vectors with PyTorch (`encoder/pooling.py`); everything after it
uses the functions here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# (D,) float32 of unit length, or (B, D) of B such rows.
Vector = NDArray[np.float32]


def normalize_rows(vectors: Vector) -> Vector:
    """Divides each row by its Euclidean length.

    Args:
        vectors: (B, D) float32.

    Returns:
        (B, D) float32. Rows of zeros stay zeros, and rows that are not finite stay not finite.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vector = vectors / np.where(lengths > 0, lengths, 1)
    return unit


def cut_rows(vectors: Vector, dimensions: int) -> Vector:
    """Cuts each row to its first numbers and normalizes it again (Matryoshka, arXiv:2205.13147).

    Args:
        vectors: (B, D) float32.
        dimensions: length of the result's rows, at most D.

    Returns:
        (B, dimensions) float32.
    """
    return normalize_rows(vectors[:, :dimensions])
