"""Weights as a graph's products want them, so that an export holds them once.

`MatMul` multiplies by columns, PyTorch keeps rows. Left alone, the exporter turns every weight of a
product without bias around and keeps both, which is a large model twice.
"""

from __future__ import annotations

import torch
from torch import nn

from lensemble.encoder.pytorch.onednn_linear import OneDnnLinear


class Columns(nn.Module):
    """A `OneDnnLinear` without bias and GELU whose weight lies in columns.

    Args:
        product: Whose weight it takes; not to be used afterwards.
    """

    weight: torch.Tensor

    def __init__(self, product: OneDnnLinear) -> None:
        super().__init__()
        self.register_buffer("weight", product.weight.t().contiguous())  # (K, N)
        product.weight = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, K) -> (R, N)."""
        return x @ self.weight

    def added_to(self, x: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """(R, K) and (R, N) -> (R, N): `rest` and the product together."""
        return torch.addmm(rest, x, self.weight)


def transpose_weights(model: nn.Module) -> None:
    """Replaces all products without bias and GELU, one weight at a time, for good.

    Args:
        model: Loaded and fused, its weights as they lie.
    """
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, OneDnnLinear) and child.bias is None and child.gelu is None:
                setattr(module, name, Columns(child))
