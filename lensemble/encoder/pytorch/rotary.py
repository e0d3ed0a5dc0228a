"""The rotary position embedding of a tower (arXiv:2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lensemble.encoder.pytorch.kernels.layer_operations import Tables

# Cosines, and sines whose first half is negated; both (L, 1, head_dim).
Rotation = tuple[torch.Tensor, torch.Tensor]


class Rotary(nn.Module):
    """Computes the rotary embedding of a tower in the form that its layers take.

    Args:
        rotary: Transformers' module; the text tower's returns the model's dtype, the vision
            tower's float32.

    Attributes:
        makes_tables: whether the layers take `Tables`, as `LayerOperations` do, or a `Rotation`.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary
        self.makes_tables = False

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> Rotation | Tables:
        """Hidden states and positions of L tokens or patches -> cosines and sines."""
        if self.makes_tables:
            # Transformers' module takes only device and dtype from its first argument.
            like: Any = hidden.new_empty(0, dtype=torch.float32)
            cos, sin = (table.flatten(0, -2) for table in self.rotary(like, position_ids))
            return cos, sin
        cos, sin = (table.flatten(0, -2)[:, None] for table in self.rotary(hidden, position_ids))
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def rotate(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Applies the rotary position embedding to (L, heads, head_dim)."""
    cos, sin = rotation
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)
