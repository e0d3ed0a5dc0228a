"""What a fused layer computes between its matrix products, and how PyTorch computes it.

A layer ends with a product that is added to the residual, and the next layer begins with the norm
of that sum. One kernel computes both if the layer hands on the two summands (`PendingSum`) instead
of their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

# Cosines and sines of the rotary embedding; both (L, D) float32 with D the size of a head. Their
# second halves equal their first halves.
Tables = tuple[torch.Tensor, torch.Tensor]


class PendingSum(NamedTuple):
    """Hidden states as two summands; H is the hidden size.

    Attributes:
        residual: (L, H).
        product: (L, H). It shares memory with no other tensor, because the next norm overwrites it
            with the sum.
    """

    residual: torch.Tensor
    product: torch.Tensor


def total(hidden: torch.Tensor | PendingSum) -> torch.Tensor:
    """Returns hidden states as one tensor, and leaves the summands as they are."""
    if isinstance(hidden, PendingSum):
        return hidden.residual + hidden.product
    return hidden


@dataclass(frozen=True)
class LayerOperations:
    """The operations of a layer; each entry is a function of this module or its GPU kernel.

    GPU kernels compute in float32 and round the result once. The norms also round the sum, which
    they store, and take the norm of the rounded one. PyTorch's functions may round after each step.
    There are L tokens or P patches, and N heads. All tensors but the tables have one dtype.

    Attributes:
        add_rms_norm: residual (L, H), product (L, H), weight (H,), epsilon -> RMS norm (L, H).
            `product` is overwritten with residual + product.
        add_layer_norm: residual (L, H), product (L, H), weight (H,), bias (H,), epsilon ->
            layer norm (L, H). `product` is overwritten with residual + product.
        qk_norm_rotary: heads (L, Q + 2K, D), query norm's weight (D,), key norm's weight (D,), Q,
            tables, epsilon. Normalizes and rotates the Q query heads and the K key heads in place.
        vision_rotary: heads (P, 3N, D), tables. Rotates the first 2N heads in place.
        swiglu: gate, then up (L, 2I) -> SiLU(gate) * up (L, I).
        linear_gelu: x (L, K), weight (N, K), bias (N,) -> GELU in its tanh form (L, N).
    """

    add_rms_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
    add_layer_norm: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor
    ]
    qk_norm_rotary: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, Tables, float], None]
    vision_rotary: Callable[[torch.Tensor, Tables], None]
    swiglu: Callable[[torch.Tensor], torch.Tensor]
    linear_gelu: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def add_rms_norm(
    residual: torch.Tensor, product: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `LayerOperations.add_rms_norm`."""
    return F.rms_norm(product.add_(residual), weight.shape, weight, eps)


def add_layer_norm(
    residual: torch.Tensor,
    product: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """See `LayerOperations.add_layer_norm`."""
    return F.layer_norm(product.add_(residual), weight.shape, weight, bias, eps)


def qk_norm_rotary(
    heads: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    query_heads: int,
    tables: Tables,
    eps: float,
) -> None:
    """See `LayerOperations.qk_norm_rotary`."""
    rotated = (heads.shape[1] + query_heads) // 2  # there are as many values as keys
    parts = heads[:, :query_heads], heads[:, query_heads:rotated]
    for part, weight in zip(parts, (query_weight, key_weight), strict=True):
        part.copy_(_rotated(F.rms_norm(part.float(), weight.shape, weight.float(), eps), tables))


def vision_rotary(heads: torch.Tensor, tables: Tables) -> None:
    """See `LayerOperations.vision_rotary`."""
    rotated = heads[:, : heads.shape[1] // 3 * 2]
    rotated.copy_(_rotated(rotated.float(), tables))


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """See `LayerOperations.swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `LayerOperations.linear_gelu`."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


PYTORCH = LayerOperations(
    add_rms_norm=add_rms_norm,
    add_layer_norm=add_layer_norm,
    qk_norm_rotary=qk_norm_rotary,
    vision_rotary=vision_rotary,
    swiglu=swiglu,
    linear_gelu=linear_gelu,
)


def _rotated(heads: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Applies the rotary position embedding (arXiv:2104.09864) to (L, heads, D)."""
    cos, sin = (table[:, None] for table in tables)
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
