"""The layers of both towers with fewer and larger operations, made from the same weights.

The time of a small batch depends on the number of operations and hardly on their arithmetic. So
queries, keys and values are one matrix product instead of three, gate and up are one instead of
two, queries and keys are normalized and rotated together, and one operation computes a product and
adds the residual. In fp32 the vectors differ from those of Transformers' layers in the last bit;
tests compare both.

These layers are for serving only: the weights are laid out differently than in the checkpoint, and
sums are computed in place.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLModel
from transformers.activations import GELUTanh

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.attention import packed_attention
from lensemble.encoder.pytorch.onednn_linear import Gelu, OneDnnLinear

# Cosines, and sines whose first half is negated; both (L, 1, head_dim).
Rotation = tuple[torch.Tensor, torch.Tensor]


def fuse_layers(model: Qwen3VLModel) -> None:
    """Replaces the layers of both towers permanently.

    Args:
        model: a model as loaded. Its layers are replaced one after another, so only the weights of
            one layer at a time are in memory twice.

    Raises:
        ValueError: A layer has biases or an activation that the layers of Qwen3-VL do not have.
    """
    towers: Any = model
    text, vision = towers.language_model, towers.visual
    for layers, fused in ((text.layers, TextLayer), (vision.blocks, VisionBlock)):
        for n, layer in enumerate(layers):
            layers[n] = fused(layer)
    vision.merger = Merger(vision.merger)
    for n, merger in enumerate(vision.deepstack_merger_list):
        vision.deepstack_merger_list[n] = Merger(merger)
    text.norm = RMSNorm(text.norm)
    text.rotary_emb = Rotary(text.rotary_emb)
    vision.rotary_pos_emb = Rotary(vision.rotary_pos_emb)


class RMSNorm(nn.Module):
    """Replaces `Qwen3VLTextRMSNorm` by one operation.

    Args:
        norm: Transformers' layer, whose weights are used.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., H)."""
        return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)


class Rotary(nn.Module):
    """Computes the rotary embedding of a tower in the form that `rotate` takes.

    Args:
        rotary: Transformers' module; the text tower's returns the model's dtype, the vision
            tower's float32.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> Rotation:
        """Hidden states and positions of L tokens or patches -> cosines and sines."""
        cos, sin = (table.flatten(0, -2)[:, None] for table in self.rotary(hidden, position_ids))
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def rotate(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Applies the rotary position embedding (arXiv:2104.09864) to (L, heads, head_dim)."""
    cos, sin = rotation
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


class TextLayer(nn.Module):
    """Replaces `Qwen3VLTextDecoderLayer`; H is the hidden size.

    Args:
        layer: Transformers' layer, whose weights are used.

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

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Rotation,
        cu_seq_lens_q: torch.Tensor | AttentionTable | None = None,
        max_length_q: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(1, L, H) -> (1, L, H); Transformers defines the arguments' names."""
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


class VisionBlock(nn.Module):
    """Replaces `Qwen3VLVisionBlock`; P patches, hidden size D.

    Args:
        block: Transformers' block, whose weights are used.
    """

    is_causal = False  # `packed_attention` reads it

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.proj = (linear(part) for part in (block.attn.qkv, block.attn.proj))
        self.up = linear(block.mlp.linear_fc1, block.mlp.act_fn)
        self.down = linear(block.mlp.linear_fc2)
        self.heads, self.scaling = block.attn.num_heads, block.attn.scaling

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor | AttentionTable,
        position_embeddings: Rotation,
        max_seqlen: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(P, D) -> (P, D); Transformers defines the arguments' names."""
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, D) -> (P / 4, H)."""
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
