"""Attention over packed items: each item sees itself and nothing else.

Transformers' towers stay as they are; they call an attention function by name. Registered under a
name that contains "flash", one function serves both: the vision tower then hands over all pictures
in one call per layer with their boundaries, instead of splitting per picture, and the text tower
passes on the boundaries that the encoder gives it. This is private ground of Transformers, so it
is kept here, and tests count the calls and put leaks in.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lensemble.encoder.attention_graph import Blocks
from lensemble.encoder.pytorch.attention_cpu import per_segment

NAME = "packed_flash"

_VARLEN_DTYPES = (torch.bfloat16, torch.float16)


def use_packed_attention(model: nn.Module) -> None:
    """Switches a `Qwen3VLModel` to packed attention, for good.

    Args:
        model: The model; afterwards both towers need the boundaries of what they are given.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    towers: Any = model
    for config in (towers.config, towers.visual.config, towers.language_model.config):
        # `set_attn_implementation` would look for a kernel package of this name.
        config._attn_implementation_internal = NAME


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | Blocks | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each segment of one row; the signature is Transformers'.

    Args:
        module: The attention layer that calls.
        query: (1, heads, L, head_dim).
        key: (1, key heads, L, head_dim).
        value: (1, key heads, L, head_dim).
        attention_mask: None; boundaries take its place.
        scaling: Factor on the scores.
        is_causal: Whether a token sees only what stands before it; None asks the layer.
        cu_seq_lens_q: (S + 1,) int32, where each segment begins, and L. Tokens before the first
            segment are the beginning of every segment (causal, not on the varlen kernel). In
            graphs `Blocks`, which say all that there is to say.
        max_length_q: Length of the longest segment.

    Returns:
        (1, L, heads, head_dim), and None for the weights.

    Raises:
        ValueError: A mask, more than one row, or no boundaries: each would mix items up silently.
    """
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention takes one row and no mask")
    if isinstance(cu_seq_lens_q, Blocks):
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return cu_seq_lens_q.attend(q, k, v, scaling or query.shape[-1] ** -0.5)[None], None
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed attention needs the boundaries of the items (cu_seq_lens_q)")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if query.is_cuda and query.dtype in _VARLEN_DTYPES:
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, causal), None
    return per_segment(query, key, value, cu_seq_lens_q, scaling, causal), None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """One variable-length kernel for all segments (CUDA)."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = query.shape[1] != key.shape[1]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0) if causal else (-1, -1)}
    if grouped and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True
    elif grouped:  # PyTorch 2.11 and 2.12
        key, value = (
            tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            for tensor in (key, value)
        )
    # (1, heads, L, head_dim) -> (L, heads, head_dim)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out: Any = varlen_attn(q, k, v, boundaries, boundaries, longest, longest, **options)
    attended: torch.Tensor = out[None]
    return attended


def _no_mask(*_: Any, **__: Any) -> None:
    """The boundaries say what a mask would."""
