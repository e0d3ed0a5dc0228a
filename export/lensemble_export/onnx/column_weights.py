"""Linear layers whose weight is stored transposed, so that the exporter keeps it only once.

The operator `MatMul` multiplies by a weight of shape (inputs, outputs), but PyTorch stores it as
(outputs, inputs). Without this module the exporter would transpose the weight of each linear layer
without bias, and keep both forms in memory, which doubles the memory of a large model.
"""

from __future__ import annotations

import torch
from torch import nn

from lensemble.encoder.pytorch.onednn_linear import OneDnnLinear


class ColumnLinear(nn.Module):
    """A `OneDnnLinear` without bias and GELU, with its weight transposed.

    Args:
        linear: layer from which the weight is taken; it cannot be used afterwards.
    """

    weight: torch.Tensor

    def __init__(self, linear: OneDnnLinear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.t().contiguous())  # (K, N)
        linear.weight = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiplies (R, K) by the weight, which gives (R, N)."""
        return x @ self.weight

    def added_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Multiplies (R, K) by the weight and adds the residual (R, N), which gives (R, N)."""
        return torch.addmm(residual, x, self.weight)


def transpose_weights(model: nn.Module) -> None:
    """Replaces all linear layers without bias and GELU by `ColumnLinear`, in place, one at a time.

    Args:
        model: model with fused layers whose weights are not reordered for oneDNN.
    """
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, OneDnnLinear) and child.bias is None and child.gelu is None:
                setattr(module, name, ColumnLinear(child))
