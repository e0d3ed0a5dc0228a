"""The towers' layers with fewer and larger operations, from the same weights.

Small batches are bound by the number of operations, not by arithmetic. So queries, keys and values
are one product instead of three, gate and up one instead of two, queries and keys are normalised
and rotated together, and residuals are added by the product before them. In fp32 the vectors differ
from those of Transformers' layers in the last bit; tests compare both.

For serving only: the weights lie differently than in the checkpoint, and sums are written in place.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLModel
from transformers.activations import GELUTanh

from lensemble.encoder.attention_graph import Blocks
from lensemble.encoder.pytorch.attention import packed_attention
from lensemble.encoder.pytorch.onednn_linear import Gelu, Product

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines, and sines of which the first half is negated, both (L, 1, head_dim)."""


def fuse(model: Qwen3VLModel) -> None:
    """Replaces the layers of both towers, for good.

    Args:
        model: As loaded; one layer at a time is in memory twice.

    Raises:
        ValueError: A layer has biases or an activation that Qwen3-VL's have not.
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
    """`Qwen3VLTextRMSNorm` as one operation."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., H)."""
        return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)


class Rotary(nn.Module):
    """A tower's rotary embedding, ready for `rotated`.

    Args:
        rotary: Transformers' own: of the text tower in the model's dtype, of the vision tower
            float32.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> Rotation:
        """Hidden states and positions of L tokens or patches -> cosines, sines."""
        cos, sin = (table.flatten(0, -2)[:, None] for table in self.rotary(hidden, position_ids))
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def rotated(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotary position embedding (arXiv:2104.09864) of (L, heads, head_dim)."""
    cos, sin = rotation
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


class TextLayer(nn.Module):
    """`Qwen3VLTextDecoderLayer`; H hidden, `queries` and `keys` heads.

    Args:
        layer: Transformers' own, whose weights it takes.

    Raises:
        ValueError: It is no layer of a Qwen3-VL: it has biases.
    """

    is_causal = True

    norm_heads: torch.Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        own, mlp = layer.self_attn, layer.mlp
        if any(p.bias is not None for p in (own.q_proj, own.k_proj, own.v_proj, own.o_proj)):
            raise ValueError("attention_bias is true; expected Qwen3-VL's false")
        self.head_dim, self.scaling = own.head_dim, own.scaling
        self.queries = len(own.q_proj.weight) // self.head_dim
        self.keys = len(own.k_proj.weight) // self.head_dim
        self.qkv = Product(torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]))
        of_heads = (
            own.q_norm.weight.expand(self.queries, -1),
            own.k_norm.weight.expand(self.keys, -1),
        )
        self.register_buffer("norm_heads", torch.cat(of_heads).detach())  # (heads, head_dim)
        self.out = Product(own.o_proj.weight)
        self.gate_up = Product(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        self.down, self.act = Product(mlp.down_proj.weight), mlp.act_fn
        self.norm_in, self.norm_mid = (
            RMSNorm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Rotation,
        cu_seq_lens_q: torch.Tensor | Blocks | None = None,
        max_length_q: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(1, L, H) -> (1, L, H); the arguments' names are Transformers'."""
        hidden = hidden_states[0]
        rows, both = hidden.shape[0], self.queries + self.keys
        heads = self.qkv(self.norm_in(hidden)).view(rows, -1, self.head_dim)
        seen = F.rms_norm(heads[:, :both], (self.head_dim,), None, self.norm_in.eps)
        seen = rotated(seen * self.norm_heads, position_embeddings).transpose(0, 1)[None]
        attended, _weights = packed_attention(
            self,
            seen[:, : self.queries],
            seen[:, self.queries :],
            heads[:, both:].transpose(0, 1)[None],
            None,
            scaling=self.scaling,
            cu_seq_lens_q=cu_seq_lens_q,
            max_length_q=max_length_q,
        )
        hidden = self.out.added_to(attended.reshape(rows, -1), hidden)
        gate, up = self.gate_up(self.norm_mid(hidden)).chunk(2, dim=-1)
        return self.down.added_to(self.act(gate).mul_(up), hidden)[None]


class VisionBlock(nn.Module):
    """`Qwen3VLVisionBlock`; P patches, D hidden.

    Args:
        block: Transformers' own, whose weights it takes.
    """

    is_causal = False

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.proj = (product(part) for part in (block.attn.qkv, block.attn.proj))
        self.up = product(block.mlp.linear_fc1, block.mlp.act_fn)
        self.down = product(block.mlp.linear_fc2)
        self.heads, self.scaling = block.attn.num_heads, block.attn.scaling

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor | Blocks,
        position_embeddings: Rotation,
        max_seqlen: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(P, D) -> (P, D); the arguments' names are Transformers'."""
        rows, both = hidden_states.shape[0], 2 * self.heads
        heads = self.qkv(self.norm1(hidden_states)).view(rows, both + self.heads, -1)
        seen = rotated(heads[:, :both].float(), position_embeddings).to(heads.dtype)
        seen = seen.transpose(0, 1)[None]
        attended, _weights = packed_attention(
            self,
            seen[:, : self.heads],
            seen[:, self.heads :],
            heads[:, both:].transpose(0, 1)[None],
            None,
            scaling=self.scaling,
            cu_seq_lens_q=cu_seqlens,
            max_length_q=max_seqlen,
        )
        hidden = self.proj.added_to(attended.reshape(rows, -1), hidden_states)
        return self.down.added_to(self.up(self.norm2(hidden)), hidden)


class Merger(nn.Module):
    """`Qwen3VLVisionPatchMerger`; four patches of width D become one token of width H.

    Args:
        merger: Transformers' own, whose weights it takes.
    """

    def __init__(self, merger: Any) -> None:
        super().__init__()
        self.norm, self.width = merger.norm, merger.hidden_size
        self.norm_first = not merger.use_postshuffle_norm
        self.up = product(merger.linear_fc1, merger.act_fn)
        self.down = product(merger.linear_fc2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, D) -> (P / 4, H)."""
        if self.norm_first:
            merged = self.norm(x).view(-1, self.width)
        else:
            merged = self.norm(x.view(-1, self.width))
        tokens: torch.Tensor = self.down(self.up(merged))
        return tokens


def product(linear: nn.Linear, act: nn.Module | None = None) -> Product:
    """A Linear and the GELU behind it as one product.

    Raises:
        ValueError: It is another activation than Qwen3-VL's.
    """
    if act is None:
        return Product(linear.weight, linear.bias)
    if isinstance(act, GELUTanh):
        return Product(linear.weight, linear.bias, "tanh")
    if isinstance(act, nn.GELU):
        return Product(linear.weight, linear.bias, cast(Gelu, act.approximate))
    raise ValueError(f"the vision tower's activation is {act}; expected GELU")
