"""Encodes items with gradients, by the attention kernel whose backward pass is fast."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lensemble.encoder.precision import bf16_is_faster
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features


def trains_in_bf16(encoder: TorchEngine) -> bool:
    """Tells whether training computes in bfloat16 on the encoder's device.

    A CPU without bfloat16 instructions multiplies such matrices a hundred times more slowly.
    """
    return encoder.device.type == "cuda" or bf16_is_faster()


def encode_with_gradients(encoder: TorchEngine, items: Sequence[Features]) -> torch.Tensor:
    """Returns the vectors of items, with the graph that computed them.

    Args:
        encoder: Encoder, on the device to compute on.
        items: N items.

    Returns:
        (N, D) float32, unit length.
    """
    packed = encoder.pack(items)
    kernel: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if encoder.device.type == "cpu":
        # The backward pass of PyTorch's fused attention is slow for short sequences.
        kernel = sdpa_kernel(SDPBackend.MATH)
    enabled = trains_in_bf16(encoder)
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=enabled), kernel:
        return encoder.forward_with_gradients(packed).float()
