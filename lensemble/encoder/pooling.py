"""Hidden states of packed items -> one unit vector per item."""

from __future__ import annotations

import torch

from lensemble.profile import Pooling


def pool(hidden: torch.Tensor, cu_seqlens: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Pools each item's hidden states.

    Args:
        hidden: (L, H), after the final norm.
        cu_seqlens: (S + 1,) int32, where each item begins, and L.
        pooling: `last_token` takes each item's last one; `mean` averages all of them in float32.

    Returns:
        (S, H) float32.
    """
    ends = cu_seqlens[1:].long()
    if pooling == "last_token":
        return hidden[ends - 1].float()
    # Each token's item: how many items have ended at or before it.
    tokens = torch.arange(len(hidden), device=hidden.device)
    segment = torch.searchsorted(ends, tokens, right=True)
    sums = torch.zeros(len(ends), hidden.shape[1], device=hidden.device)
    sums.index_add_(0, segment, hidden.float())
    return sums / cu_seqlens.diff()[:, None]


def normalize(vectors: torch.Tensor) -> torch.Tensor:
    """Divides each vector by its Euclidean length.

    A Matryoshka vector is a prefix normalised again, and a prefix of the normalised vector gives
    the same result as one of the raw vector.

    Args:
        vectors: (S, D) float32.
    """
    return torch.nn.functional.normalize(vectors, p=2.0, dim=-1)
