"""Linear layers whose weights are laid out for oneDNN on CPUs.

PyTorch hands a weight to oneDNN in its normal layout, and oneDNN reorders it in every call. With
few rows that takes half of the time. oneDNN also computes GELU on the product while it is still in
the CPU's cache. `torch.compile` uses the same two operations when it freezes a model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

# Values of `approximate` of `torch.nn.functional.gelu`.
Gelu = Literal["none", "tanh"]

# Numbers in a weight. Smaller weights stay in the cache anyway; docs/decisions.md has the times.
_MIN_WEIGHT_NUMBERS = 1 << 18

# Number of input rows that the layout is optimized for. With 30 rows it is as fast as a layout for
# 30 rows.
_LAYOUT_ROWS = 2048


class OneDnnLinear(nn.Module):
    """x W^T + b, optionally followed by GELU, in the weight's dtype: float32 or bfloat16.

    Args:
        weight: (N, K).
        bias: (N,), or None.
        gelu: variant of GELU that follows, or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, gelu: Gelu | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.gelu: Gelu | None = gelu
        self._reordered: torch.Tensor | None = None

    def reorder(self) -> None:
        """Replaces the weight by one in oneDNN's layout, if that makes this layer faster.

        This is permanent: the weight can then be neither moved nor read.
        """
        small = self.weight.numel() < _MIN_WEIGHT_NUMBERS
        if (small and self.gelu is None) or self.weight.device.type != "cpu":
            return
        mkldnn: Any = torch.ops.mkldnn
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return
        self._reordered = mkldnn._reorder_linear_weight(self.weight, _LAYOUT_ROWS)
        self.weight = torch.empty(0, self.weight.shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, K) -> (R, N)."""
        if self._reordered is not None:
            activation: tuple[Any, ...] = (
                ("none", [], "") if self.gelu is None else ("gelu", [], self.gelu)
            )
            mkldnn: Any = torch.ops.mkldnn
            result: torch.Tensor = mkldnn._linear_pointwise(
                x, self._reordered, self.bias, *activation
            )
            return result
        y = F.linear(x, self.weight, self.bias)
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)

    def added_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Adds the product of (R, K) to a residual (R, N); for layers without GELU."""
        if self._reordered is None and self.bias is None:
            return torch.addmm(residual, x, self.weight.t())
        product: torch.Tensor = self(x)
        return product.add_(residual)


def reorder_weights(model: nn.Module) -> None:
    """Reorders the weights of all `OneDnnLinear` layers of a model on a CPU.

    Args:
        model: a fused model, on the device where it stays.
    """
    for module in model.modules():
        if isinstance(module, OneDnnLinear):
            module.reorder()
