"""Attention by segments without a variable-length kernel: on CPUs, and in fp32.

Segments of similar length share one call, because a call costs more than a few tokens of padding.
The grouping is the same in all layers of a pass, so it is computed once and cached.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lensemble.encoder.attention_table import padded_rows

# Lengths of texts in one call differ by less than this many tokens.
_LENGTH_STEP = 16

_CACHE_SIZE = 32
# Longer masks take 1 MB and more, and are not cached for the next layer.
_LONGEST_CACHED_MASK = 512


def attend_per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Computes attention within each segment.

    Args:
        query: (1, heads, L, head_dim).
        key: (1, key heads, L, head_dim).
        value: (1, key heads, L, head_dim).
        boundaries: (S + 1,) int32, the first token of each segment, and L. Tokens before the first
            segment are the shared prefix of all segments, in causal attention only.
        scaling: factor on the scores; None is 1 / sqrt(head_dim).
        causal: whether a token sees only itself and what precedes it.

    Returns:
        (1, L, heads, head_dim).

    Raises:
        ValueError: There is a shared prefix and attention is not causal.
    """
    plan = (_plan_by_similar_length if causal else _plan_neighbours)(
        tuple(boundaries.tolist()), query.device
    )
    prefix = int(boundaries[0])
    if prefix and not causal:
        raise ValueError("a shared prefix is for causal attention: it must not see what follows")
    attend: Any = functools.partial(
        nn.functional.scaled_dot_product_attention,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    parts = []
    prefix_q, *prefix_kv = (tensor[:, :, :prefix] for tensor in (query, key, value))
    if prefix:
        parts.append(attend(prefix_q, *prefix_kv, is_causal=True)[0].transpose(0, 1))
    for group in plan.groups:
        q, k, v = (group.gather(tensor) for tensor in (query, key, value))
        if prefix:
            k, v = (
                torch.cat([shared.expand(group.count, -1, -1, -1), own], dim=2)
                for shared, own in zip(prefix_kv, (k, v), strict=True)
            )
            out = attend(q, k, v, attn_mask=_prefix_mask(group.length, prefix, q.dtype, q.device))
        else:
            out = attend(q, k, v, is_causal=causal)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (count * length, heads, head_dim)
    results = torch.cat(parts) if len(parts) > 1 else parts[0]
    if plan.result_places is not None:
        results = results.index_select(0, plan.result_places)
    return results[None]


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments that share one call.

    Attributes:
        count: number of segments.
        length: length of the longest one. Shorter ones are padded at their end, which no earlier
            token sees in causal attention.
        start: first token of the group; used only if `rows` is None. The segments then have the
            same length and follow one another.
        rows: (count * length,) int64, the rows of all tokens, padding included; None if the
            segments begin at `start`.
    """

    count: int
    length: int
    start: int = 0
    rows: torch.Tensor | None = None

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Takes the group's rows: (1, heads, L, head_dim) -> (count, heads, length, head_dim)."""
        heads, head_dim = tensor.shape[1], tensor.shape[3]
        if self.rows is None:
            rows = tensor[0, :, self.start : self.start + self.count * self.length]
        else:
            rows = tensor[0].index_select(1, self.rows)
        return rows.reshape(heads, self.count, self.length, head_dim).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """How the segments of one row are divided into calls.

    Attributes:
        groups: groups that together contain all segments.
        result_places: (L,) int64, the place of each token among the results of the groups; None if
            they are in order.
    """

    groups: tuple[SegmentGroup, ...]
    result_places: torch.Tensor | None = None


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _plan_neighbours(boundaries: tuple[int, ...], device: torch.device) -> SegmentPlan:
    """Groups neighbouring segments of equal length.

    This is for pictures. It leaves their rows where they are: grouping other pictures would copy
    rows, which costs more than the calls that it saves.
    """
    groups, start = [], boundaries[0]
    lengths = (end - begin for begin, end in itertools.pairwise(boundaries))
    for length, run in itertools.groupby(lengths):
        count = len(list(run))
        groups.append(SegmentGroup(count, length, start))
        start += count * length
    return SegmentPlan(tuple(groups))


@functools.lru_cache(maxsize=_CACHE_SIZE)
@torch.inference_mode(False)  # training may use cached tensors
def _plan_by_similar_length(boundaries: tuple[int, ...], device: torch.device) -> SegmentPlan:
    """Groups segments whose lengths differ by less than `_LENGTH_STEP`, wherever they are."""
    if len(boundaries) == 2:
        return _plan_neighbours(boundaries, device)
    starts, lengths = np.array(boundaries[:-1]), np.diff(boundaries)
    steps = -(-lengths // _LENGTH_STEP)
    result_places = np.arange(boundaries[-1])  # already right for the prefix
    groups, done = [], int(starts[0])
    for step in np.unique(steps):
        members = np.flatnonzero(steps == step)
        rows, is_real = padded_rows(starts[members], lengths[members])
        result_places[rows[is_real]] = done + np.flatnonzero(is_real)
        count, length = rows.shape
        groups.append(
            SegmentGroup(count, length, rows=torch.from_numpy(rows.reshape(-1)).to(device))
        )
        done += is_real.size
    return SegmentPlan(tuple(groups), torch.from_numpy(result_places).to(device))


def _prefix_mask(
    length: int, prefix: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Makes the mask (length, prefix + length) to add to scores.

    Each token sees the prefix, and its segment up to itself.
    """
    make = _cached_mask if length <= _LONGEST_CACHED_MASK else _cached_mask.__wrapped__
    return make(length, prefix, dtype, device)


@functools.lru_cache(maxsize=_CACHE_SIZE)
@torch.inference_mode(False)  # training may use cached tensors
def _cached_mask(
    length: int, prefix: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    mask = torch.full((length, prefix + length), -torch.inf, dtype=dtype, device=device)
    return mask.triu(diagonal=prefix + 1)
