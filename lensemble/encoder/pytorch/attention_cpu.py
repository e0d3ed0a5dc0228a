"""Attention by segments where there is no variable-length kernel: on CPUs, and in fp32.

One call for segments of like length, as a call costs more than a few tokens. Which belong together
is the same in all layers of a pass, so it is worked out once.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

_STEP = 16
"""Tokens by which the lengths of texts in one call differ at most."""

_KEPT = 32
_LONGEST_KEPT = 512
"""Of a mask that is kept for the next layer: 1 MB and more."""


def per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Attends within each segment.

    Args:
        query: (1, heads, L, head_dim).
        key: (1, key heads, L, head_dim).
        value: (1, key heads, L, head_dim).
        boundaries: (S + 1,) int32, where each segment begins, and L. Tokens before the first are
            the beginning of every segment, if it is causal.
        scaling: Factor on the scores; None is 1 / sqrt(head_dim).
        causal: Whether a token sees only what stands before it.

    Returns:
        (1, L, heads, head_dim).

    Raises:
        ValueError: A shared beginning, and not causal.
    """
    plan = (_alike if causal else _runs)(tuple(boundaries.tolist()), query.device)
    # What stands before the first segment is the beginning of every segment.
    shared = int(boundaries[0])
    if shared and not causal:
        raise ValueError("a shared prefix is for causal attention: it must not see what follows")
    attend: Any = functools.partial(
        nn.functional.scaled_dot_product_attention,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    parts = []
    first, *before = (tensor[:, :, :shared] for tensor in (query, key, value))
    if shared:
        parts.append(attend(first, *before, is_causal=True)[0].transpose(0, 1))
    for group in plan.groups:
        q, k, v = (group.of(tensor) for tensor in (query, key, value))
        if shared:
            k, v = (
                torch.cat([one.expand(group.count, -1, -1, -1), own], dim=2)
                for one, own in zip(before, (k, v), strict=True)
            )
            out = attend(q, k, v, attn_mask=_mask(group.length, shared, q.dtype, q.device))
        else:
            out = attend(q, k, v, is_causal=causal)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (count * length, heads, head_dim)
    together = torch.cat(parts) if len(parts) > 1 else parts[0]
    return (together if plan.back is None else together.index_select(0, plan.back))[None]


@dataclass(frozen=True, slots=True)
class Group:
    """Segments that one call attends to.

    Attributes:
        count: How many.
        length: Of the longest; shorter ones are filled up at their end, which in causal attention
            nothing before it sees.
        start: Where they begin, if they stand in one piece and are of one length.
        rows: (count * length,) int64, their tokens' places, if not.
    """

    count: int
    length: int
    start: int = 0
    rows: torch.Tensor | None = None

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """(1, heads, L, head_dim) -> (count, heads, length, head_dim)."""
        heads, width = tensor.shape[1], tensor.shape[3]
        if self.rows is None:
            chosen = tensor[0, :, self.start : self.start + self.count * self.length]
        else:
            chosen = tensor[0].index_select(1, self.rows)
        return chosen.reshape(heads, self.count, self.length, width).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one row is attended to.

    Attributes:
        groups: All its segments.
        back: (L,) int64, where each token is among the groups' results; None if they are in order.
    """

    groups: tuple[Group, ...]
    back: torch.Tensor | None = None


@functools.lru_cache(maxsize=_KEPT)
def _runs(boundaries: tuple[int, ...], device: torch.device) -> Plan:
    """Neighbours of exactly one length together: a copy of pictures would cost more than a call."""
    groups, start = [], boundaries[0]
    lengths = (end - begin for begin, end in itertools.pairwise(boundaries))
    for length, run in itertools.groupby(lengths):
        count = len(list(run))
        groups.append(Group(count, length, start))
        start += count * length
    return Plan(tuple(groups))


@functools.lru_cache(maxsize=_KEPT)
@torch.inference_mode(False)  # training may meet what is kept
def _alike(boundaries: tuple[int, ...], device: torch.device) -> Plan:
    """Segments whose lengths differ by less than `_STEP` together, wherever they stand."""
    if len(boundaries) == 2:
        return _runs(boundaries, device)
    starts, lengths = np.array(boundaries[:-1]), np.diff(boundaries)
    steps = -(-lengths // _STEP)
    back = np.arange(boundaries[-1])  # right for what stands before the first segment
    groups, done = [], int(starts[0])
    for step in np.unique(steps):
        chosen = np.flatnonzero(steps == step)
        length = int(lengths[chosen].max())
        within = np.arange(length)
        real = within < lengths[chosen, None]
        # What fills up is the segment's first token again: any would do.
        rows = starts[chosen, None] + np.where(real, within, 0)
        back[rows[real]] = done + np.flatnonzero(real)
        groups.append(
            Group(len(chosen), length, rows=torch.from_numpy(rows.reshape(-1)).to(device))
        )
        done += real.size
    return Plan(tuple(groups), torch.from_numpy(back).to(device))


def _mask(length: int, shared: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(length, shared + length) to add to scores: each token sees what is shared, and up to it."""
    make = _kept_mask if length <= _LONGEST_KEPT else _kept_mask.__wrapped__
    return make(length, shared, dtype, device)


@functools.lru_cache(maxsize=_KEPT)
@torch.inference_mode(False)
def _kept_mask(length: int, shared: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    hidden = torch.full((length, shared + length), -torch.inf, dtype=dtype, device=device)
    return hidden.triu(diagonal=shared + 1)
