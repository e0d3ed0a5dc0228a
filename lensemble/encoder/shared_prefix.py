"""The shared prefix: tokens with which all items of a micro-batch begin are computed only once.

The system message and the user's header are more than half of a short text's tokens. In causal
attention a token does not see what follows it, so the hidden states of a common beginning are the
same in every item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.packing import PackedBatch
from lensemble.preprocess.features import Features


def common_prefix_length(items: Sequence[Features], spec: InputSpec) -> int:
    """Counts the tokens with which all items begin.

    Pictures are never part of it, and at least one token of each item stays outside it.

    Args:
        items: features of at least one item.
        spec: input specification of the model.
    """
    shortest = min(len(item.input_ids) for item in items) - 1
    rows = np.stack([item.input_ids[:shortest] for item in items])
    # Different pictures of one size have the same ids, so a picture's tokens count as different.
    differs = (rows != rows[0]).any(axis=0) | (rows[0] == spec.image_token_id)
    return int(np.argmax(differs)) if differs.any() else shortest


def share_prefix(packed: PackedBatch, length: int) -> PackedBatch:
    """Removes the common prefix from all items of a batch but the first.

    This is for last-token pooling only: an item's mean would lack its prefix.

    Args:
        packed: a batch from `pack`.
        length: number of tokens of the prefix; pictures are not part of it.

    Raises:
        ValueError: A picture is among these tokens.
    """
    starts = packed.cu_seqlens[:-1].long()
    kept = torch.ones(packed.input_ids.shape[1], dtype=torch.bool)
    kept[(starts[1:, None] + torch.arange(length)).flatten()] = False
    if not kept[packed.visual_positions].all():
        raise ValueError(f"a picture is among the first {length} tokens")
    new_place = kept.cumsum(0) - 1
    lengths = packed.cu_seqlens.diff() - length
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0)]) + length
    return replace(
        packed,
        input_ids=packed.input_ids[:, kept],
        position_ids=packed.position_ids[:, :, kept],
        cu_seqlens=boundaries.int(),
        max_seqlen=int(lengths.max()),
        visual_positions=new_place[packed.visual_positions],
    )
