"""Packed items -> the tensors that the ONNX graphs take. CPU work on small integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder import attention_graph
from lensemble.encoder.packing import Packed
from lensemble.profile import Pooling, Profile

Feeds = dict[str, NDArray[Any]]


def of_vision(packed: Packed, pictures: Sequence[int]) -> Feeds:
    """Inputs of the vision graph.

    Args:
        packed: With pictures.
        pictures: Which of them, in the order in which they are to stand.
    """
    boundaries = packed.vision_cu_seqlens.numpy().astype(np.int64)
    lengths = np.diff(boundaries)[[*pictures]]
    rows = [slice(boundaries[n], boundaries[n + 1]) for n in pictures]
    parts = {
        "patches": packed.patches,
        "position_ids": packed.vision_position_ids,
        "interp_indices": packed.interp_indices,
        "interp_weights": packed.interp_weights,
    }
    return {
        **{
            name: np.concatenate([part.numpy()[one] for one in rows])
            for name, part in parts.items()
        },
        **attention_graph.whole(lengths),
    }


def visual_rows(packed: Packed, pictures: Sequence[int], merge_size: int) -> NDArray[np.int64]:
    """Which of a pack's picture tokens are those of `of_vision`.

    Args:
        packed: As there.
        pictures: As there.
        merge_size: Patches per side of a token.

    Returns:
        (V,) int64.
    """
    ends = packed.vision_cu_seqlens.numpy().astype(np.int64) // merge_size**2
    return np.concatenate([np.arange(ends[n], ends[n + 1]) for n in pictures])


def of_text(
    packed: Packed, profile: Profile, visual: NDArray[Any], deepstack: NDArray[Any]
) -> Feeds:
    """Inputs of the text graph.

    Args:
        packed: At least one item.
        profile: Of the checkpoint; the vectors are of its full length.
        visual: (V, H), of the pack's pictures in order; (0, H) without any.
        deepstack: (n, V, H).
    """
    boundaries = packed.cu_seqlens.numpy().astype(np.int64)
    index = np.zeros(packed.input_ids.shape[1], np.int64)
    index[packed.visual_positions.numpy()] = np.arange(len(packed.visual_positions)) + 1
    rows, weights = pooled(boundaries, profile.pooling)
    return {
        "input_ids": packed.input_ids[0].numpy(),
        "position_ids": packed.position_ids[1:, 0].numpy(),
        "visual": visual,
        "deepstack": deepstack,
        "visual_index": index,
        **attention_graph.causal(boundaries),
        "pool_rows": rows,
        "pool_weights": weights,
        "dimensions": np.array([profile.dimension]),
    }


def pooled(
    boundaries: NDArray[np.int64], pooling: Pooling
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows make up each item's vector, and in which parts.

    Args:
        boundaries: (S + 1,), where each item begins, and L.
        pooling: `last_token` or `mean`.

    Returns:
        Both (S, W).
    """
    starts, ends = boundaries[:-1], boundaries[1:]
    if pooling == "last_token":
        return ends[:, None] - 1, np.ones((len(ends), 1), np.float32)
    lengths = ends - starts
    within = np.arange(int(lengths.max()))
    real = within < lengths[:, None]
    rows = starts[:, None] + np.where(real, within, 0)
    return rows, (real / lengths[:, None]).astype(np.float32)
