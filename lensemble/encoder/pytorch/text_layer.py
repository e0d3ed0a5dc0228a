"""The layers of the text tower for serving."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.attention.packed_attention import packed_attention
from lensemble.encoder.pytorch.kernels.layer_operations import (
    LayerOperations,
    PendingSum,
    Tables,
)
from lensemble.encoder.pytorch.onednn_linear import OneDnnLinear
from lensemble.encoder.pytorch.rotary import Rotation, rotate


class RMSNorm(nn.Module):
    """Replaces `Qwen3VLTextRMSNorm` by one operation.

    Args:
        norm: Transformers' layer, whose weights are used.

    Attributes:
        operations: what computes the norm of a sum; None if there are none to take.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon
        self.operations: LayerOperations | None = None

    def forward(self, hidden: torch.Tensor | PendingSum) -> torch.Tensor:
        """(..., H) -> (..., H); a pending sum (L, H) -> (1, L, H), as Transformers expects it."""
        if isinstance(hidden, PendingSum):
            return self.sum_and_norm(hidden)[1][None]
        return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)

    def sum_and_norm(self, hidden: torch.Tensor | PendingSum) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns hidden states (L, H) as one tensor, and their norm (L, H)."""
        if not isinstance(hidden, PendingSum):
            return hidden, self(hidden)
        assert self.operations is not None
        normalized = self.operations.add_rms_norm(*hidden, self.weight, self.eps)
        return hidden.product, normalized


class TextLayer(nn.Module):
    """Replaces `Qwen3VLTextDecoderLayer`; H is the hidden size.

    Args:
        layer: Transformers' layer, whose weights are used.

    Attributes:
        operations: what computes the steps between the products, on GPUs; None takes PyTorch's.

    Raises:
        ValueError: The layer has biases, which the layers of Qwen3-VL do not have.
    """

    is_causal = True  # `packed_attention` reads it

    qk_norm_weight: torch.Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp
        if any(p.bias is not None for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)):
            raise ValueError("attention_bias is true; expected Qwen3-VL's false")
        self.head_dim, self.scaling = attn.head_dim, attn.scaling
        self.query_heads = len(attn.q_proj.weight) // self.head_dim
        self.key_heads = len(attn.k_proj.weight) // self.head_dim
        self.qkv = OneDnnLinear(
            torch.cat([attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight])
        )
        # Queries and keys are normalized together without weights. The weights of both norms are
        # applied afterwards and therefore repeated for each head:
        # (query heads + key heads, head_dim).
        norm_weights = (
            attn.q_norm.weight.expand(self.query_heads, -1),
            attn.k_norm.weight.expand(self.key_heads, -1),
        )
        self.register_buffer("qk_norm_weight", torch.cat(norm_weights).detach())
        self.out = OneDnnLinear(attn.o_proj.weight)
        self.gate_up = OneDnnLinear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        self.down, self.act = OneDnnLinear(mlp.down_proj.weight), mlp.act_fn
        self.norm_in, self.norm_mid = (
            RMSNorm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self.operations: LayerOperations | None = None

    def forward(
        self,
        hidden_states: torch.Tensor | PendingSum,
        position_embeddings: Rotation | Tables,
        cu_seq_lens_q: torch.Tensor | AttentionTable | None = None,
        max_length_q: int | None = None,
        **_: Any,
    ) -> torch.Tensor | PendingSum:
        """(1, L, H) -> (1, L, H), or with `operations` also a pending sum -> a pending sum.

        Transformers defines the arguments' names, and hands on what a layer returns.
        """
        if self.operations is not None:
            return self._with_operations(
                self.operations, hidden_states, position_embeddings, cu_seq_lens_q, max_length_q
            )
        assert not isinstance(hidden_states, PendingSum)
        hidden = hidden_states[0]
        rows, rotated = hidden.shape[0], self.query_heads + self.key_heads
        heads = self.qkv(self.norm_in(hidden)).view(rows, -1, self.head_dim)
        qk = F.rms_norm(heads[:, :rotated], (self.head_dim,), None, self.norm_in.eps)
        qk = rotate(qk * self.qk_norm_weight, position_embeddings).transpose(0, 1)[None]
        attended, _weights = packed_attention(
            self,
            qk[:, : self.query_heads],
            qk[:, self.query_heads :],
            heads[:, rotated:].transpose(0, 1)[None],
            None,
            scaling=self.scaling,
            cu_seq_lens_q=cu_seq_lens_q,
            max_length_q=max_length_q,
        )
        hidden = self.out.added_to(attended.reshape(rows, -1), hidden)
        gate, up = self.gate_up(self.norm_mid(hidden)).chunk(2, dim=-1)
        return self.down.added_to(self.act(gate).mul_(up), hidden)[None]

    def _with_operations(
        self,
        operations: LayerOperations,
        hidden: torch.Tensor | PendingSum,
        tables: Tables,
        boundaries: torch.Tensor | AttentionTable | None,
        max_length: int | None,
    ) -> PendingSum:
        """The same layer: four operations between four products and attention."""
        residual, normalized = self.norm_in.sum_and_norm(
            hidden if isinstance(hidden, PendingSum) else hidden[0]
        )
        rows = len(residual)
        heads = self.qkv(normalized).view(rows, -1, self.head_dim)
        operations.qk_norm_rotary(
            heads,
            self.qk_norm_weight[0],
            self.qk_norm_weight[self.query_heads],
            self.query_heads,
            tables,
            self.norm_in.eps,
        )
        # Views of one buffer: the attention kernel takes their strides.
        parts = heads.split([self.query_heads, self.key_heads, self.key_heads], dim=1)
        query, key, value = (part.transpose(0, 1)[None] for part in parts)
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
        product = self.out(attended.reshape(rows, -1))
        residual, normalized = self.norm_mid.sum_and_norm(PendingSum(residual, product))
        return PendingSum(residual, self.down(operations.swiglu(self.gate_up(normalized))))
