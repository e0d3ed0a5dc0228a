"""The layers of the vision tower for serving."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers.activations import GELUTanh

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.attention.packed_attention import packed_attention
from lensemble.encoder.pytorch.kernels.layer_operations import (
    LayerOperations,
    PendingSum,
    Tables,
    total,
)
from lensemble.encoder.pytorch.onednn_linear import Gelu, OneDnnLinear
from lensemble.encoder.pytorch.rotary import Rotation, rotate


class VisionBlock(nn.Module):
    """Replaces `Qwen3VLVisionBlock`; P patches, hidden size D.

    Args:
        block: Transformers' block, whose weights are used.

    Attributes:
        operations: what computes the steps between the products, on GPUs; None takes PyTorch's.
    """

    is_causal = False  # `packed_attention` reads it

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.proj = (linear(part) for part in (block.attn.qkv, block.attn.proj))
        self.up = linear(block.mlp.linear_fc1, block.mlp.act_fn)
        self.down = linear(block.mlp.linear_fc2)
        self.heads, self.scaling = block.attn.num_heads, block.attn.scaling
        self.operations: LayerOperations | None = None

    def forward(
        self,
        hidden_states: torch.Tensor | PendingSum,
        cu_seqlens: torch.Tensor | AttentionTable,
        position_embeddings: Rotation | Tables,
        max_seqlen: int | None = None,
        **_: Any,
    ) -> torch.Tensor | PendingSum:
        """(P, D) -> (P, D), or with `operations` also a pending sum -> a pending sum.

        Transformers defines the arguments' names, and hands on what a layer returns.
        """
        if self.operations is not None:
            return self._with_operations(
                self.operations, hidden_states, position_embeddings, cu_seqlens, max_seqlen
            )
        assert not isinstance(hidden_states, PendingSum)
        rows, rotated = hidden_states.shape[0], 2 * self.heads
        heads = self.qkv(self.norm1(hidden_states)).view(rows, rotated + self.heads, -1)
        qk = rotate(heads[:, :rotated].float(), position_embeddings).to(heads.dtype)
        qk = qk.transpose(0, 1)[None]
        attended, _weights = packed_attention(
            self,
            qk[:, : self.heads],
            qk[:, self.heads :],
            heads[:, rotated:].transpose(0, 1)[None],
            None,
            scaling=self.scaling,
            cu_seq_lens_q=cu_seqlens,
            max_length_q=max_seqlen,
        )
        hidden = self.proj.added_to(attended.reshape(rows, -1), hidden_states)
        return self.down.added_to(self.up(self.norm2(hidden)), hidden)

    def _with_operations(
        self,
        operations: LayerOperations,
        hidden: torch.Tensor | PendingSum,
        tables: Tables,
        boundaries: torch.Tensor | AttentionTable,
        max_length: int | None,
    ) -> PendingSum:
        """The same block: three operations between four products and attention."""
        residual, normalized = _sum_and_norm(operations, self.norm1, hidden)
        rows = len(residual)
        heads = self.qkv(normalized).view(rows, 3 * self.heads, -1)
        operations.vision_rotary(heads, tables)
        # Views of one buffer: the attention kernel takes their strides.
        query, key, value = (part.transpose(0, 1)[None] for part in heads.chunk(3, dim=1))
        attended, _weights = packed_attention(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            cu_seq_lens_q=boundaries,
            max_length_q=max_length,
        )
        product = self.proj(attended.reshape(rows, -1))
        residual, normalized = _sum_and_norm(operations, self.norm2, PendingSum(residual, product))
        if self.up.gelu == "tanh" and self.up.bias is not None:
            up = operations.linear_gelu(normalized, self.up.weight, self.up.bias)
        else:
            up = self.up(normalized)
        return PendingSum(residual, self.down(up))


class Merger(nn.Module):
    """Replaces `Qwen3VLVisionPatchMerger`; four patches of width D become one token of width H.

    Args:
        merger: Transformers' merger, whose weights are used.
    """

    def __init__(self, merger: Any) -> None:
        super().__init__()
        self.norm, self.merged_width = merger.norm, merger.hidden_size  # 4 D
        self.norm_first = not merger.use_postshuffle_norm
        self.up = linear(merger.linear_fc1, merger.act_fn)
        self.down = linear(merger.linear_fc2)

    def forward(self, x: torch.Tensor | PendingSum) -> torch.Tensor:
        """(P, D) -> (P / 4, H)."""
        # DeepStack's mergers read what the next block takes as well, so the summands stay.
        x = total(x)
        if self.norm_first:
            merged = self.norm(x).view(-1, self.merged_width)
        else:
            merged = self.norm(x.view(-1, self.merged_width))
        tokens: torch.Tensor = self.down(self.up(merged))
        return tokens


def linear(layer: nn.Linear, act: nn.Module | None = None) -> OneDnnLinear:
    """Makes one operation of a linear layer and the GELU that follows it, if any.

    Raises:
        ValueError: The activation is not GELU.
    """
    if act is None:
        return OneDnnLinear(layer.weight, layer.bias)
    if isinstance(act, GELUTanh):
        return OneDnnLinear(layer.weight, layer.bias, "tanh")
    if isinstance(act, nn.GELU):
        return OneDnnLinear(layer.weight, layer.bias, cast(Gelu, act.approximate))
    raise ValueError(f"the vision tower's activation is {act}; expected GELU")


def _sum_and_norm(
    operations: LayerOperations, norm: nn.LayerNorm, hidden: torch.Tensor | PendingSum
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns hidden states (P, D) as one tensor, and their norm (P, D)."""
    if not isinstance(hidden, PendingSum):
        return hidden, norm(hidden)
    normalized = operations.add_layer_norm(*hidden, norm.weight, norm.bias, norm.eps)
    return hidden.product, normalized
