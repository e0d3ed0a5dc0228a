"""Makes the input tensors of the ONNX graphs from a packed batch: CPU work on small integers.

The names of these tensors are part of exported files, so they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder import attention_table
from lensemble.encoder.attention_table import TableArrays
from lensemble.encoder.packing import PackedBatch
from lensemble.profile import Pooling, Profile

# Name of an input of a graph -> its array.
GraphInputs = dict[str, NDArray[Any]]


def vision_inputs(packed: PackedBatch, pictures: Sequence[int]) -> GraphInputs:
    """Makes the inputs of the vision graph.

    Args:
        packed: a batch with pictures.
        pictures: indices of the pictures to compute, in this order.
    """
    boundaries = packed.vision_cu_seqlens.numpy().astype(np.int64)
    lengths = np.diff(boundaries)[[*pictures]]
    slices = [slice(boundaries[n], boundaries[n + 1]) for n in pictures]
    tensors = {
        "patches": packed.patches,
        "position_ids": packed.vision_position_ids,
        "interp_indices": packed.interp_indices,
        "interp_weights": packed.interp_weights,
    }
    return {
        **{
            name: np.concatenate([tensor.numpy()[rows] for rows in slices])
            for name, tensor in tensors.items()
        },
        **_table_inputs(attention_table.full_attention(lengths)),
    }


def visual_token_indices(
    packed: PackedBatch, pictures: Sequence[int], merge_size: int
) -> NDArray[np.int64]:
    """Returns which of a batch's picture tokens belong to some of its pictures.

    Args:
        packed: a batch with pictures.
        pictures: indices of the pictures, in the order of `vision_inputs`.
        merge_size: patches per side of a token.

    Returns:
        (V,) int64.
    """
    ends = packed.vision_cu_seqlens.numpy().astype(np.int64) // merge_size**2
    return np.concatenate([np.arange(ends[n], ends[n + 1]) for n in pictures])


def text_inputs(
    packed: PackedBatch, profile: Profile, visual: NDArray[Any], deepstack: NDArray[Any]
) -> GraphInputs:
    """Makes the inputs of the text graph.

    Args:
        packed: a batch of at least one item.
        profile: profile of the checkpoint; the vectors get its full length.
        visual: (V, H), visual embeddings of all pictures in order; (0, H) without pictures.
        deepstack: (n, V, H), DeepStack features of n layers.
    """
    boundaries = packed.cu_seqlens.numpy().astype(np.int64)
    visual_index = np.zeros(packed.input_ids.shape[1], np.int64)
    visual_index[packed.visual_positions.numpy()] = np.arange(len(packed.visual_positions)) + 1
    rows, weights = pooling_rows(boundaries, profile.pooling)
    return {
        "input_ids": packed.input_ids[0].numpy(),
        "position_ids": packed.position_ids[:, 0].numpy(),
        "visual": visual,
        "deepstack": deepstack,
        "visual_index": visual_index,
        **_table_inputs(attention_table.causal_attention(boundaries)),
        "pool_rows": rows,
        "pool_weights": weights,
        "dimensions": np.array([profile.dimension]),
    }


def pooling_rows(
    boundaries: NDArray[np.int64], pooling: Pooling
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns which rows of hidden states make up each item's vector, and their weights.

    Args:
        boundaries: (S + 1,), the first row of each item, and L.
        pooling: `last_token` or `mean`.

    Returns:
        Rows and weights, both (S, W). Padding has weight 0.
    """
    starts, ends = boundaries[:-1], boundaries[1:]
    if pooling == "last_token":
        return ends[:, None] - 1, np.ones((len(ends), 1), np.float32)
    lengths = ends - starts
    rows, is_real = attention_table.padded_rows(starts, lengths)
    return rows, (is_real / lengths[:, None]).astype(np.float32)


def _table_inputs(table: TableArrays) -> GraphInputs:
    return {
        "queries": table.query_rows,
        "keys": table.key_rows,
        "seen": table.visible_keys,
        "back": table.result_places,
    }
