"""The vision tower's patch embedding, on uint8 rows of one frame."""

from __future__ import annotations

import torch
from torch import nn

from lensemble.profile import ImageProfile


class PatchEmbedding(nn.Module):
    """Embeds patches; equal to the reference's patch embedding for still pictures.

    The reference scales and normalizes pixels, repeats the still frame, and applies a Conv3d whose
    kernel is as large as its input. For two equal frames that is a linear layer whose weight is the
    kernel summed over its two frames. It does half the work on an eighth of the input.

    Args:
        conv: the reference's Conv3d, kernel (2, 16, 16).
        image: mean and standard deviation of the profile.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, conv: nn.Conv3d, image: ImageProfile) -> None:
        super().__init__()
        weight = conv.weight.detach().float().sum(dim=2).flatten(1)  # (D, 768)
        self.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        self.bias = conv.bias
        pixels = weight.shape[1] // 3  # a row holds all red values, then green, then blue
        # On the weight's device: the model may have been moved before this layer is made.
        mean, std = (
            torch.tensor(channels, device=weight.device).repeat_interleave(pixels)
            for channels in (image.mean, image.std)
        )
        # (x / 255 - mean) / std = x * scale - shift
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(P, 768) uint8 -> (P, D)."""
        pixels = patches.float() * self.scale - self.shift
        return nn.functional.linear(pixels.to(self.weight.dtype), self.weight, self.bias)
