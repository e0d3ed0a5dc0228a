"""The layers of both towers with fewer and larger operations, made from the same weights.

The time of a small batch depends on the number of operations and hardly on their arithmetic. So
queries, keys and values are one matrix product instead of three, gate and up are one instead of
two, queries and keys are normalized and rotated together, and one operation computes a product and
adds the residual. In fp32 the vectors differ from those of Transformers' layers in the last bit;
tests compare both. On GPUs, where the steps between the products take a large part of the time,
`use_operations` replaces them by the kernels of `kernels`.

These layers are for serving only: the weights are laid out differently than in the checkpoint, and
sums are computed in place.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3VLModel

from lensemble.encoder.pytorch.kernels.layer_operations import LayerOperations, PendingSum, total
from lensemble.encoder.pytorch.rotary import Rotary
from lensemble.encoder.pytorch.text_layer import RMSNorm, TextLayer
from lensemble.encoder.pytorch.vision_layers import Merger, VisionBlock


def fuse_layers(model: Qwen3VLModel) -> None:
    """Replaces the layers of both towers permanently.

    Args:
        model: a model as loaded. Its layers are replaced one after another, so only the weights of
            one layer at a time are in memory twice.

    Raises:
        ValueError: A layer has biases or an activation that the layers of Qwen3-VL do not have.
    """
    towers: Any = model
    text, vision = towers.language_model, towers.visual
    for layers, fused in ((text.layers, TextLayer), (vision.blocks, VisionBlock)):
        for n, layer in enumerate(layers):
            layers[n] = fused(layer)
    vision.merger = Merger(vision.merger)
    for n, merger in enumerate(vision.deepstack_merger_list):
        vision.deepstack_merger_list[n] = Merger(merger)
    text.norm = RMSNorm(text.norm)
    text.rotary_emb = Rotary(text.rotary_emb)
    vision.rotary_pos_emb = Rotary(vision.rotary_pos_emb)


def use_operations(tower: Any, operations: LayerOperations | None) -> None:
    """Sets what computes the steps between the products of a tower with fused layers.

    Args:
        tower: `language_model` or `visual` of a model.
        operations: the operations; None takes the layers' own path, which is the one for CPUs.
    """
    for module in tower.modules():
        if isinstance(module, RMSNorm | TextLayer | VisionBlock):
            module.operations = operations
        elif isinstance(module, Rotary):
            module.makes_tables = operations is not None


def add_deepstack_features(
    hidden: torch.Tensor | PendingSum, positions: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """Adds features of pictures (V, H) to hidden states (1, L, H) at the positions (V,).

    It replaces Transformers' function, which indexes with a boolean mask: that makes the CPU wait
    until the device has counted how many are set.
    """
    if isinstance(hidden, PendingSum):
        # The sum is a new tensor, so it can be added to in place.
        return total(hidden).index_add_(0, positions, features.to(hidden.product.dtype))[None]
    return hidden.index_add(1, positions, features[None].to(hidden.dtype))
