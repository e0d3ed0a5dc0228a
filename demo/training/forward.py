"""Items to vectors with a graph, the way that is fast backwards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lensemble.encoder.precision import bf16_is_faster
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features


def has_bf16(encoder: TorchEngine) -> bool:
    """Whether training computes in bfloat16 where the encoder is.

    A CPU without such instructions multiplies bfloat16 matrices a hundred times slower.
    """
    return encoder.device.type == "cuda" or bf16_is_faster()


def vectors(encoder: TorchEngine, items: Sequence[Features]) -> torch.Tensor:
    """Vectors of items, with the graph that made them.

    Args:
        encoder: On the device to compute on.
        items: N.

    Returns:
        (N, D) float32, unit length.
    """
    packed = encoder.pack(items)
    kernel: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if encoder.device.type == "cpu":
        # PyTorch's fused attention is slow backwards where sequences are short.
        kernel = sdpa_kernel(SDPBackend.MATH)
    enabled = has_bf16(encoder)
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=enabled), kernel:
        return encoder.forward_with_gradients(packed).float()
