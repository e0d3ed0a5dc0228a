"""Attention within segments by tables of indices, for the exported ONNX graphs.

These graphs are traced, so they cannot loop over segments whose number and lengths change from call
to call. The indices are their inputs instead. One row of a table is one segment: its queries, and
the keys that they may see, padded to the longest segment. `pytorch/attention/attention_cpu.py`
computes the same attention with a loop over segments.

The indices count the rows of a tower's hidden states: each of these rows is one token or one patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# Largest ratio of the work of attention with padding to the work without it, in one group.
# Smaller ratios make more groups, and every group costs a call.
_MAX_PADDING_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class AttentionTable:
    """Which of a tower's R rows attend to which: B segments of up to T queries and K keys.

    Attributes:
        query_rows: (B, T) int64, the rows of each segment's queries; padding may name any row.
        key_rows: (B, K) int64, the rows of the keys that a segment's queries may see.
        visible_keys: (B, T) int64, how many of the segment's keys each query sees, at least 1; or
            (B,) if all queries of a segment see the same number.
        result_places: (R,) int64, the place of each row's result among the B * T queries.
    """

    query_rows: torch.Tensor
    key_rows: torch.Tensor
    visible_keys: torch.Tensor
    result_places: torch.Tensor

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Computes the attention (arXiv:1706.03762) of each query over the keys that it sees.

        Args:
            query: (R, heads, head_dim).
            key: (R, key heads, head_dim); several query heads may share one key head.
            value: (R, key heads, head_dim).
            scaling: factor on the scores.

        Returns:
            (R, heads, head_dim).
        """
        segments, max_queries = self.query_rows.shape
        max_keys = self.key_rows.shape[1]
        _, heads, head_dim = query.shape
        key_heads = key.shape[1]
        group = heads // key_heads  # query heads per key head
        q = (query * scaling)[self.query_rows].view(
            segments, max_queries, key_heads, group, head_dim
        )
        q = q.permute(0, 2, 3, 1, 4).reshape(segments, key_heads, group * max_queries, head_dim)
        k = key[self.key_rows].permute(0, 2, 3, 1)  # (B, key heads, head_dim, K)
        v = value[self.key_rows].permute(0, 2, 1, 3)
        places = torch.arange(max_keys, device=query.device)
        hidden = places >= self.visible_keys[..., None]  # (B, [T,] K)
        if self.visible_keys.dim() == 1:
            # One more component per head adds a very negative number to the scores of hidden keys.
            # That saves an operation on all scores. A quarter of the lowest number leaves room for
            # the score itself.
            penalty = hidden.to(k.dtype)[:, None, None] * (torch.finfo(k.dtype).min / 4)
            k = torch.cat([k, penalty.expand(-1, key_heads, -1, -1)], dim=2)
            q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
            scores = torch.matmul(q, k)
        else:
            scores = torch.matmul(q, k).view(segments, key_heads, -1, max_queries, max_keys)
            scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        weights = torch.softmax(scores, dim=-1).view(segments, key_heads, -1, max_keys)
        out = torch.matmul(weights, v).view(segments, key_heads, group, max_queries, head_dim)
        results = out.permute(0, 3, 1, 2, 4).reshape(segments * max_queries, heads, head_dim)
        return results[self.result_places]


@dataclass(frozen=True, slots=True)
class TableArrays:
    """The arrays of an `AttentionTable` in NumPy; see there."""

    query_rows: NDArray[np.int64]
    key_rows: NDArray[np.int64]
    visible_keys: NDArray[np.int64]
    result_places: NDArray[np.int64]


def full_attention(lengths: NDArray[np.int64]) -> TableArrays:
    """Makes the table in which queries see all of their segment: for pictures.

    Args:
        lengths: (M,) number of rows of each segment; segments follow one another. At least one.
    """
    rows, is_real = padded_rows(np.cumsum(lengths) - lengths, lengths)
    return TableArrays(rows, rows, lengths, np.flatnonzero(is_real))


def causal_attention(boundaries: NDArray[np.int64]) -> TableArrays:
    """Makes the table in which queries see their segment up to themselves: for texts.

    Args:
        boundaries: (S + 1,), the first row of each segment, and R. Rows before the first segment
            are the shared prefix of all segments (`share_prefix`). The prefix is then the first
            segment of the table, and each of the others sees it and itself.
    """
    starts, lengths = boundaries[:-1], np.diff(boundaries)
    prefix = int(boundaries[0])
    if prefix:
        starts, lengths = np.concatenate([[0], starts]), np.concatenate([[prefix], lengths])
    queries, is_real = padded_rows(starts, lengths)
    visible = np.minimum(np.arange(queries.shape[1]) + 1, lengths[:, None])
    keys = queries
    if prefix:
        longest = int(lengths[1:].max())
        keys = np.zeros((len(starts), prefix + longest), np.int64)
        keys[:, :prefix] = np.arange(prefix)
        keys[1:, prefix:] = queries[1:, :longest]
        visible[1:] += prefix
    return TableArrays(queries, keys, visible, np.flatnonzero(is_real))


def group_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups segments so that padding each group to its longest segment wastes little work.

    Args:
        lengths: number of rows of each segment.

    Yields:
        Indices of the segments of one group; short segments first, every segment once.
    """
    group: list[int] = []
    work = 0  # without padding
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        square = lengths[n] ** 2
        if group and (len(group) + 1) * square > _MAX_PADDING_RATIO * (work + square):
            yield group
            group, work = [], 0
        group.append(n)
        work += square
    if group:
        yield group


def padded_rows(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the rows of each segment, padded with its first row, and which are not padding.

    Args:
        starts: (B,), the first row of each segment.
        lengths: (B,), the number of its rows.

    Returns:
        Both (B, T); T is the length of the longest segment.
    """
    offsets = np.arange(int(lengths.max()))
    is_real = offsets < lengths[:, None]
    return starts[:, None] + np.where(is_real, offsets, 0), is_real
