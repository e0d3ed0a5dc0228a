"""The kernels of attention on a few small segments, against plain attention in fp32."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn import functional as F

from lensemble.encoder.pytorch.attention.varlen_kernels import Kernel

LENGTHS = (1, 37, 128, 300)
# Size of a head, query heads, key heads: 64, 72 and 128 are those of the towers; in the last two,
# heads share their keys.
HEADS = ((64, 4, 4), (72, 4, 4), (128, 4, 4), (64, 4, 2), (128, 4, 2))


class AttentionTrial:
    """Random queries, keys and values of several segments in one row.

    Args:
        head_dim: Size of a head.
        query_heads: Number of query heads.
        key_heads: Number of key heads.
        device: Device of the tensors.
        dtype: Their precision.
    """

    def __init__(
        self,
        head_dim: int,
        query_heads: int,
        key_heads: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = sum(LENGTHS)
        self.query, self.key, self.value = (
            torch.randn(rows, heads, head_dim, generator=generator).to(device, dtype)
            for heads in (query_heads, key_heads, key_heads)
        )
        self._ends = [0, *accumulate(LENGTHS)]
        self.boundaries = torch.tensor(self._ends, dtype=torch.int32, device=device)

    def expected(self, causal: bool) -> torch.Tensor:
        """Returns the result of plain attention in fp32, (L, heads, head_dim)."""
        parts = []
        for begin, end in pairwise(self._ends):
            q, k, v = (
                tensor[begin:end].float().transpose(0, 1)[None]
                for tensor in (self.query, self.key, self.value)
            )
            shared = q.shape[1] // k.shape[1]
            k, v = (tensor.repeat_interleave(shared, dim=1) for tensor in (k, v))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def error(self, kernel: Kernel, causal: bool) -> dict[str, Any]:
        """Returns the relative error of a kernel's result, and its largest absolute error.

        Args:
            kernel: The kernel, one of `varlen_kernels`.
            causal: Whether a token sees only itself and what precedes it.

        Raises:
            ValueError: The relative error is above what bf16 explains.
        """
        expected = self.expected(causal)
        arguments = (self.query, self.key, self.value, self.boundaries, max(LENGTHS), None, causal)
        off = (kernel(*arguments).float() - expected).abs()
        relative = float(off.norm() / expected.norm())
        if not relative < MAX_RELATIVE_ERROR:
            raise ValueError(f"relative error {relative:.2e}; expected < {MAX_RELATIVE_ERROR}")
        return {"relative_error": f"{relative:.2e}", "largest_error": f"{float(off.max()):.2e}"}


# bf16 has eight bits of precision; another segment's keys give an error of about 1.
MAX_RELATIVE_ERROR = 0.01
