"""Pooling: the hidden states of each item become one unit vector."""

from __future__ import annotations

import torch

from lensemble.profile import Pooling
from lensemble.vectors import Vector


def pool(hidden: torch.Tensor, cu_seqlens: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Pools the hidden states of each item.

    Args:
        hidden: (L, H), hidden states after the final norm.
        cu_seqlens: (S + 1,) int32, the first row of each item, and the end of the last one; rows
            behind it are ignored.
        pooling: `last_token` takes the last row of each item; `mean` averages all its rows in
            float32.

    Returns:
        (S, H) float32.
    """
    ends = cu_seqlens[1:].long()
    if pooling == "last_token":
        return hidden[ends - 1].float()
    # The item of each token is the number of items that end at or before it. Rows behind the last
    # item, which a CUDA graph may have, go into a sum of their own.
    tokens = torch.arange(len(hidden), device=hidden.device)
    segment = torch.searchsorted(ends, tokens, right=True)
    sums = torch.zeros(len(ends) + 1, hidden.shape[1], device=hidden.device)
    sums.index_add_(0, segment, hidden.float())
    return sums[:-1] / cu_seqlens.diff()[:, None]


def normalize(vectors: torch.Tensor) -> torch.Tensor:
    """Divides each vector by its Euclidean length.

    Cutting a normalized vector and normalizing it again gives the same result as cutting the raw
    vector. So the full vector is computed once, and cut later (`cut_vector`).

    Args:
        vectors: (S, D) float32.
    """
    return torch.nn.functional.normalize(vectors, p=2.0, dim=-1)


def cut_vector(vector: Vector, dimensions: int | None) -> Vector:
    """Cuts a vector to its first numbers and normalizes it again (Matryoshka, arXiv:2205.13147).

    Args:
        vector: (D,) float32, unit length.
        dimensions: length of the result; None keeps the full length.

    Returns:
        (dimensions,) float32, unit length.
    """
    if dimensions is None or dimensions == len(vector):
        return vector
    short: Vector = normalize(torch.from_numpy(vector[None, :dimensions].copy()))[0].numpy()
    return short
