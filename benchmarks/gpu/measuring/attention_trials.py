"""The kernels of attention on a few small segments, against plain attention in fp32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F

from lensemble.encoder.pytorch.attention import packed_attention

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
        ends = torch.tensor([0, *LENGTHS]).cumsum(0)
        self.boundaries = ends.to(device, torch.int32)
        self._ends = ends.tolist()

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

    def packed(self, causal: bool) -> torch.Tensor:
        """Returns the result of the encoder's own function."""
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (self.query, self.key, self.value))
        out, _ = packed_attention(
            torch.nn.Module(),
            q,
            k,
            v,
            None,
            is_causal=causal,
            cu_seq_lens_q=self.boundaries,
            max_length_q=max(LENGTHS),
        )
        return out[0]

    def direct(self, causal: bool) -> torch.Tensor:
        """Returns the result of PyTorch's operation below `varlen_attn`; only on GPUs."""
        return flash_forward(
            self.query, self.key, self.value, self.boundaries, max(LENGTHS), None, causal
        )

    def error(self, run: Callable[[bool], torch.Tensor], causal: bool) -> dict[str, Any]:
        """Returns the relative error of a kernel's result, and its largest absolute error.

        Args:
            run: The kernel: `packed` or `direct`.
            causal: Whether a token sees only itself and what precedes it.

        Raises:
            ValueError: The relative error is above what bf16 explains.
        """
        expected = self.expected(causal)
        off = (run(causal).float() - expected).abs()
        relative = float(off.norm() / expected.norm())
        if not relative < MAX_RELATIVE_ERROR:
            raise ValueError(f"relative error {relative:.2e}; expected < {MAX_RELATIVE_ERROR}")
        return {"relative_error": f"{relative:.2e}", "largest_error": f"{float(off.max()):.2e}"}


# bf16 has eight bits of precision; another segment's keys give an error of about 1.
MAX_RELATIVE_ERROR = 0.01


def flash_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """Calls `aten::_flash_attention_forward`, which takes shared key heads without copies.

    Args:
        query: (L, heads, head_dim).
        key: (L, key heads, head_dim).
        value: (L, key heads, head_dim).
        boundaries: (S + 1,) int32, the first token of each segment, and L.
        longest: Length of the longest segment.
        scale: Factor on the scores; None is 1 / sqrt(head_dim).
        causal: Whether a token sees only itself and what precedes it.

    Returns:
        (L, heads, head_dim).
    """
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        boundaries,
        boundaries,
        longest,
        longest,
        0.0,
        causal,
        False,
        scale=scale,
        window_size_left=-1,
        window_size_right=0 if causal else -1,
    )[0]
    return out
