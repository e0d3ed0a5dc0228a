"""Matrix products of the towers' layers, with weights laid out for oneDNN on CPUs.

PyTorch hands a weight to the library as it lies, which is arranged anew in every call: with few
rows that takes half of the time. And oneDNN computes GELU on what it has just multiplied, before
it leaves the cache. `torch.compile` takes the same two operations when it freezes a model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

Gelu = Literal["none", "tanh"]
"""Of `torch.nn.functional.gelu`'s `approximate`."""

_MIN_NUMBERS = 1 << 18
"""In a weight. Smaller ones are in the cache either way; docs/decisions.md has the times."""

_ROWS = 2048
"""That the layout is for; with 30 rows it is as fast as one made for them."""


class Product(nn.Module):
    """x W^T + b, and GELU if wanted, in the dtype of the weight: float32 or bfloat16.

    Args:
        weight: (N, K).
        bias: (N,), or none.
        gelu: Which, of what comes out.
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
        self._packed: torch.Tensor | None = None

    def pack(self) -> None:
        """Lays the weight out for oneDNN, in place of the one that was given, where that pays.

        For good: the weight cannot be moved or read afterwards.
        """
        small = self.weight.numel() < _MIN_NUMBERS
        if (small and self.gelu is None) or self.weight.device.type != "cpu":
            return
        mkldnn: Any = torch.ops.mkldnn
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return
        self._packed = mkldnn._reorder_linear_weight(self.weight, _ROWS)
        self.weight = torch.empty(0, self.weight.shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, K) -> (R, N)."""
        if self._packed is not None:
            after: tuple[Any, ...] = (
                ("none", [], "") if self.gelu is None else ("gelu", [], self.gelu)
            )
            mkldnn: Any = torch.ops.mkldnn
            result: torch.Tensor = mkldnn._linear_pointwise(x, self._packed, self.bias, *after)
            return result
        y = F.linear(x, self.weight, self.bias)
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)

    def added_to(self, x: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """(R, K) and (R, N) -> (R, N): `rest` and the product together; without GELU."""
        if self._packed is None and self.bias is None:
            return torch.addmm(rest, x, self.weight.t())
        own: torch.Tensor = self(x)
        return own.add_(rest)


def pack(model: nn.Module) -> None:
    """Lays out all products of a model on a CPU.

    Args:
        model: Loaded, fused, and where it stays.
    """
    for module in model.modules():
        if isinstance(module, Product):
            module.pack()
