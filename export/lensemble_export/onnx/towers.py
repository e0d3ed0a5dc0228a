"""The two towers as modules that a graph can be made of: tensors in, tensors out, no branches.

What depends on sizes comes in as indices (`lensemble.encoder.attention_table`,
`lensemble.encoder.packing`), so one graph takes any number of items and pictures of any size, in
one row and without leaks between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.fused_layers import Rotation
from lensemble.encoder.pytorch.torch_engine import TorchEngine


class VisionGraph(nn.Module):
    """Patches of pictures -> visual embeddings and DeepStack features.

    Args:
        encoder: With fused layers whose weights lie as they were loaded.
    """

    def __init__(self, encoder: TorchEngine) -> None:
        super().__init__()
        self.visual: Any = encoder.model.visual

    def forward(
        self,
        patches: torch.Tensor,
        position_ids: torch.Tensor,
        interp_indices: torch.Tensor,
        interp_weights: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        seen: torch.Tensor,
        back: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both float32, whatever the weights are.

        Args:
            patches: (P, 768) uint8.
            position_ids: (P, 2) int64, row and column of each patch.
            interp_indices: (P, 4) int64, entries of the position table to mix.
            interp_weights: (P, 4) float32, in which parts.
            queries: (M, T) int64; this and the next three as of `AttentionTable`.
            keys: (M, T) int64.
            seen: (M,) int64.
            back: (P,) int64.

        Returns:
            (V, H), and (n, V, H) of n layers: V = P / 4 tokens.
        """
        visual = self.visual
        table = AttentionTable(queries, keys, seen, back)
        hidden = visual.patch_embed(patches)
        places = (visual.pos_embed(interp_indices) * interp_weights[:, :, None]).sum(1)
        hidden = hidden + places.to(hidden.dtype)
        rotation = visual.rotary_pos_emb(hidden, position_ids)
        features = []
        for n, block in enumerate(visual.blocks):
            hidden = block(hidden, table, position_embeddings=rotation)
            if n in visual.deepstack_visual_indexes:
                place = visual.deepstack_visual_indexes.index(n)
                features.append(visual.deepstack_merger_list[place](hidden))
        return visual.merger(hidden).float(), torch.stack(features).float()


class TextGraph(nn.Module):
    """Tokens of items -> unit vectors.

    Args:
        encoder: As of `VisionGraph`.
    """

    axes: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, encoder: TorchEngine) -> None:
        super().__init__()
        self.text: Any = encoder.model.language_model
        rotary = self.text.rotary_emb.rotary
        self.register_buffer("frequencies", rotary.inv_freq.float())
        self.register_buffer("axes", _axes(len(rotary.inv_freq), rotary.mrope_section))

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        visual: torch.Tensor,
        deepstack: torch.Tensor,
        visual_index: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        seen: torch.Tensor,
        back: torch.Tensor,
        pool_rows: torch.Tensor,
        pool_weights: torch.Tensor,
        dimensions: torch.Tensor,
    ) -> torch.Tensor:
        """Vectors, float32.

        Args:
            input_ids: (L,) int64.
            position_ids: (3, L) int64, M-RoPE: time, height, width.
            visual: (V, H) float32, as `VisionGraph` gives it; no rows without pictures.
            deepstack: (n, V, H), likewise.
            visual_index: (L,) int64; 0 is no picture's token, v + 1 the picture token v.
            queries: (B, T) int64; this and the next three as of `AttentionTable`.
            keys: (B, K) int64.
            seen: (B, T) int64.
            back: (L,) int64.
            pool_rows: (S, W) int64, rows of each item that are pooled.
            pool_weights: (S, W) float32, in which parts; 0 fills up.
            dimensions: (1,) int64, Matryoshka length of the vectors, at most that of the profile.

        Returns:
            (S, dimensions) float32, unit length.
        """
        text = self.text
        table = AttentionTable(queries, keys, seen, back)
        tokens = text.embed_tokens(input_ids)
        visual, deepstack = visual.to(tokens.dtype), deepstack.to(tokens.dtype)
        none = torch.zeros_like(tokens[:1])
        is_visual = (visual_index > 0)[:, None]
        hidden = torch.where(is_visual, torch.cat([none, visual])[visual_index], tokens)
        rotation = self._rotation(position_ids, hidden.dtype)
        for n, layer in enumerate(text.layers):
            hidden = layer(hidden[None], rotation, table)[0]
            if n < deepstack.shape[0]:
                hidden = hidden + torch.cat([none, deepstack[n]])[visual_index]
        hidden = text.norm(hidden).float()
        pooled = (hidden[pool_rows] * pool_weights[..., None]).sum(1)
        length: Any = dimensions.item()  # int() of it would fix it
        torch._check(length >= 1)
        torch._check(length <= pooled.shape[1])
        pooled = pooled.narrow(1, 0, length)
        return nn.functional.normalize(pooled, p=2.0, dim=-1)

    def _rotation(self, position_ids: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """As `fused.Rotary` of Transformers' own gives it, without writing in place."""
        angles = position_ids[self.axes].t().float() * self.frequencies  # (L, head_dim / 2)
        cos, sin = angles.cos()[:, None].to(dtype), angles.sin()[:, None].to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _axes(frequencies: int, sections: Sequence[int]) -> torch.Tensor:
    """Which of time, height and width each frequency turns with: interleaved M-RoPE.

    Source: Transformers `Qwen3VLTextRotaryEmbedding.recomposition_frequencies`.
    """
    axes = torch.zeros(frequencies, dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : sections[axis] * 3 : 3] = axis
    return axes
