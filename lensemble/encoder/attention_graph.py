"""Attention by segments with indices alone, for graphs that can neither branch nor loop.

A segment's queries and the keys that they see stand in one row of a table, filled up to the longest
row. `segments` does the same with a loop that a graph cannot have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_WASTE = 1.5
"""What filling up may make of the work of attention; small groups cost calls."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which rows of a tower attend to which: B segments of up to T queries and K keys.

    Attributes:
        queries: (B, T) int64, rows; what fills up is any of them.
        keys: (B, K) int64, rows.
        seen: (B, T) int64, how many of its block's keys each query sees; at least 1. Or (B,), where
            all of a block see the same.
        back: (R,) int64, where each row's result is among the B * T.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    seen: torch.Tensor
    back: torch.Tensor

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Attention (arXiv:1706.03762) of each query over the keys that it sees.

        Args:
            query: (R, heads, head_dim).
            key: (R, key heads, head_dim); several heads of queries may share one.
            value: (R, key heads, head_dim).
            scaling: Factor on the scores.

        Returns:
            (R, heads, head_dim).
        """
        blocks, longest = self.queries.shape
        most = self.keys.shape[1]
        _, heads, width = query.shape
        shared = key.shape[1]
        q = (query * scaling)[self.queries].view(blocks, longest, shared, heads // shared, width)
        q = q.permute(0, 2, 3, 1, 4).reshape(blocks, shared, heads // shared * longest, width)
        k = key[self.keys].permute(0, 2, 3, 1)  # (B, key heads, head_dim, K)
        v = value[self.keys].permute(0, 2, 1, 3)
        hidden = torch.arange(most, device=query.device) >= self.seen[..., None]  # (B, [T,] K)
        if self.seen.dim() == 1:
            # One more number in each head adds what hides a key: no pass over the scores for it.
            least = hidden.to(k.dtype)[:, None, None] * (torch.finfo(k.dtype).min / 4)
            k = torch.cat([k, least.expand(-1, shared, -1, -1)], dim=2)
            q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
            scores = torch.matmul(q, k)
        else:
            scores = torch.matmul(q, k).view(blocks, shared, -1, longest, most)
            scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        weights = torch.softmax(scores, dim=-1).view(blocks, shared, -1, most)
        out = torch.matmul(weights, v).view(blocks, shared, heads // shared, longest, width)
        together = out.permute(0, 3, 1, 2, 4).reshape(blocks * longest, heads, width)
        return together[self.back]


def whole(lengths: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Blocks whose queries see all of their segment: pictures.

    Args:
        lengths: (M,) rows of each segment, which stand one after the other; at least one.

    Returns:
        `Blocks`' tensors.
    """
    rows, real = _table(np.cumsum(lengths) - lengths, lengths)
    return {"queries": rows, "keys": rows, "seen": lengths, "back": np.flatnonzero(real)}


def causal(boundaries: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Blocks whose queries see their segment up to themselves: texts.

    Args:
        boundaries: (S + 1,), where each segment begins, and R. Rows before the first segment are
            the beginning of every segment (`packing.share_prefix`).

    Returns:
        `Blocks`' tensors. With a shared beginning, its own block is the first.
    """
    starts, lengths = boundaries[:-1], np.diff(boundaries)
    shared = int(boundaries[0])
    if not shared:
        rows, real = _table(starts, lengths)
        seen = np.minimum(np.arange(rows.shape[1]) + 1, lengths[:, None])
        return {"queries": rows, "keys": rows, "seen": seen, "back": np.flatnonzero(real)}
    starts, lengths = np.concatenate([[0], starts]), np.concatenate([[shared], lengths])
    rows, real = _table(starts, lengths)
    before = np.array([0] + [shared] * (len(starts) - 1))
    most = int((before + lengths).max())
    keys = np.zeros((len(starts), most), np.int64)
    keys[:, : min(shared, most)] = np.arange(min(shared, most))
    keys[1:, shared:] = rows[1:, : most - shared]
    seen = before[:, None] + np.minimum(np.arange(rows.shape[1]) + 1, lengths[:, None])
    return {"queries": rows, "keys": keys, "seen": seen, "back": np.flatnonzero(real)}


def alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Sorts segments into groups in which filling up wastes little.

    Args:
        lengths: Of the segments.

    Returns:
        Indices, every segment once, short ones first.
    """
    group: list[int] = []
    work = 0
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        square = lengths[n] ** 2
        if group and (len(group) + 1) * square > _WASTE * (work + square):
            yield group
            group, work = [], 0
        group.append(n)
        work += square
    if group:
        yield group


def _table(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of each segment, filled up with its first; and which are no filling."""
    within = np.arange(int(lengths.max()))
    real = within < lengths[:, None]
    return starts[:, None] + np.where(real, within, 0), real
