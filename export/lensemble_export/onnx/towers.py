"""The two towers as modules that can be exported: they take and return tensors, without branches.

Everything that depends on the sizes of the items is passed as indices
(`lensemble.encoder.attention_table`, `lensemble.encoder.packing`). So one graph takes any number of
items, and pictures of any size, in one packed row, without leaks between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lensemble.encoder.attention_table import AttentionTable
from lensemble.encoder.pytorch.rotary import Rotation
from lensemble.encoder.pytorch.torch_engine import TorchEngine


class VisionGraph(nn.Module):
    """The vision tower: turns patches of pictures into visual tokens and DeepStack features.

    Args:
        encoder: engine with fused layers whose weights are not reordered for oneDNN.
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
        """Computes the visual tokens of M pictures.

        Args:
            patches: (P, 768) uint8, the patches of all pictures.
            position_ids: (P, 2) int64, row and column of each patch.
            interp_indices: (P, 4) int64, entries of the position table to interpolate between.
            interp_weights: (P, 4) float32, weights of these entries.
            queries: (M, T) int64, `query_rows` of an `AttentionTable`.
            keys: (M, T) int64, `key_rows`.
            seen: (M,) int64, `visible_keys`.
            back: (P,) int64, `result_places`.

        Returns:
            V = P / 4 visual tokens (V, H), and the DeepStack features (n, V, H) of n layers; both
            float32, whatever the precision of the weights.
        """
        visual = self.visual
        table = AttentionTable(queries, keys, seen, back)
        hidden = visual.patch_embed(patches)
        positions = (visual.pos_embed(interp_indices) * interp_weights[:, :, None]).sum(1)
        hidden = hidden + positions.to(hidden.dtype)
        rotation = visual.rotary_pos_emb(hidden, position_ids)
        features = []
        for n, block in enumerate(visual.blocks):
            hidden = block(hidden, table, position_embeddings=rotation)
            if n in visual.deepstack_visual_indexes:
                number = visual.deepstack_visual_indexes.index(n)
                features.append(visual.deepstack_merger_list[number](hidden))
        return visual.merger(hidden).float(), torch.stack(features).float()


class TextGraph(nn.Module):
    """The text tower: turns the tokens of items into unit vectors.

    Args:
        encoder: engine, as for `VisionGraph`.
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
        """Computes the vectors of S items.

        Args:
            input_ids: (L,) int64.
            position_ids: (3, L) int64, M-RoPE positions: time, height, width.
            visual: (V, H) float32, visual tokens of `VisionGraph`; V = 0 without pictures.
            deepstack: (n, V, H) float32, DeepStack features of `VisionGraph`.
            visual_index: (L,) int64; v + 1 for the visual token v, 0 for any other token.
            queries: (B, T) int64, `query_rows` of an `AttentionTable`.
            keys: (B, K) int64, `key_rows`.
            seen: (B, T) int64, `visible_keys`.
            back: (L,) int64, `result_places`.
            pool_rows: (S, W) int64, rows of each item that are pooled.
            pool_weights: (S, W) float32, weights of these rows; 0 for padding.
            dimensions: (1,) int64, Matryoshka length of the vectors, at most the profile's.

        Returns:
            (S, dimensions) float32, unit length.
        """
        text = self.text
        table = AttentionTable(queries, keys, seen, back)
        tokens = text.embed_tokens(input_ids)
        visual, deepstack = visual.to(tokens.dtype), deepstack.to(tokens.dtype)
        zero_row = torch.zeros_like(tokens[:1])  # `visual_index` 0 takes this row
        is_visual = (visual_index > 0)[:, None]
        hidden = torch.where(is_visual, torch.cat([zero_row, visual])[visual_index], tokens)
        rotation = self._rotation(position_ids, hidden.dtype)
        for n, layer in enumerate(text.layers):
            hidden = layer(hidden[None], rotation, table)[0]
            if n < deepstack.shape[0]:
                hidden = hidden + torch.cat([zero_row, deepstack[n]])[visual_index]
        hidden = text.norm(hidden).float()
        pooled = (hidden[pool_rows] * pool_weights[..., None]).sum(1)
        length: Any = dimensions.item()  # `int(...)` would make it a constant of the graph
        torch._check(length >= 1)
        torch._check(length <= pooled.shape[1])
        pooled = pooled.narrow(1, 0, length)
        return nn.functional.normalize(pooled, p=2.0, dim=-1)

    def _rotation(self, position_ids: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """The same rotation as `rotary.Rotary` computes, but without writing in place."""
        angles = position_ids[self.axes].t().float() * self.frequencies  # (L, head_dim / 2)
        cos, sin = angles.cos()[:, None].to(dtype), angles.sin()[:, None].to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _axes(frequencies: int, sections: Sequence[int]) -> torch.Tensor:
    """The axis (time, height or width) that rotates each frequency, in interleaved M-RoPE.

    Source: Transformers `Qwen3VLTextRotaryEmbedding.recomposition_frequencies`.
    """
    axes = torch.zeros(frequencies, dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : sections[axis] * 3 : 3] = axis
    return axes
