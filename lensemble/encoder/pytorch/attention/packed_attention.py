"""Attention over packed items: each item attends to itself and to nothing else.

Transformers' towers call an attention function by its name. One function is registered here for
both towers, under a name that contains "flash". Because of that word the vision tower hands over
all pictures with their boundaries in one call per layer, instead of splitting them, and the text
tower passes the encoder's boundaries on. Transformers does not document this, so all of it is in
this module, and tests count the calls and check that deliberate leaks are detected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.attention import varlen_kernels
from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment

NAME = "packed_flash"


def use_packed_attention(model: nn.Module) -> None:
    """Switches a `Qwen3VLModel` to packed attention permanently.

    Args:
        model: the model; afterwards both towers require the boundaries of their segments.
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
    cu_seq_lens_q: torch.Tensor | AttentionTable | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Computes attention within each segment of one row; Transformers defines the signature.

    Args:
        module: the attention layer that calls.
        query: (1, heads, L, head_dim).
        key: (1, key heads, L, head_dim).
        value: (1, key heads, L, head_dim).
        attention_mask: always None; the boundaries replace it.
        scaling: factor on the scores.
        is_causal: whether a token sees only itself and what precedes it; None takes the layer's
            attribute.
        cu_seq_lens_q: (S + 1,) int32, the first token of each segment, and L. Tokens before the
            first segment are the shared prefix of all segments (only in causal attention, and not
            on the varlen kernel). For ONNX graphs it is an `AttentionTable`, and then `is_causal`
            and `max_length_q` are not used.
        max_length_q: length of the longest segment.

    Returns:
        (1, L, heads, head_dim), and None for the weights.

    Raises:
        ValueError: There is a mask, more than one row, or no boundaries. Each would mix items up
            without an error.
    """
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention takes one row and no mask")
    if isinstance(cu_seq_lens_q, AttentionTable):
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return cu_seq_lens_q.attend(q, k, v, scaling or query.shape[-1] ** -0.5)[None], None
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed attention needs the boundaries of the items (cu_seq_lens_q)")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if query.is_cuda and query.dtype in varlen_kernels.DTYPES:
        # (1, heads, L, head_dim) -> (L, heads, head_dim)
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        attended = varlen_kernels.attend(q, k, v, cu_seq_lens_q, max_length_q, scaling, causal)
        return attended[None], None
    return attend_per_segment(query, key, value, cu_seq_lens_q, scaling, causal), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Makes no mask, because the boundaries contain the same information."""
