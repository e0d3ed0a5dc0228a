"""What a model requires of its inputs, and the check that an item's features meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.preprocess.features import Features
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The numbers of a model's configuration that its inputs depend on.

    Attributes:
        vocab_size: number of token ids; ids are below it.
        image_token_id: id of the tokens that a picture takes.
        merge_size: patches per side of one token.
        num_grid_per_side: side of the vision tower's learned position table.
    """

    vocab_size: int
    image_token_id: int
    merge_size: int
    num_grid_per_side: int

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Takes the numbers from a `Qwen3VLConfig`."""
        vision = config.vision_config
        return cls(
            vocab_size=config.text_config.vocab_size,
            image_token_id=config.image_token_id,
            merge_size=vision.spatial_merge_size,
            num_grid_per_side=math.isqrt(vision.num_position_embeddings),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Reads the numbers from the `config.json` of a checkpoint.

        Raises:
            OSError: The folder has no `config.json`.
        """
        from transformers import Qwen3VLConfig  # takes a second to import

        return cls.from_config(
            Qwen3VLConfig.from_pretrained(folder, local_files_only=True)  # nosec B615
        )


def check_features(item: Features, spec: InputSpec) -> None:
    """Refuses features that would make the model fail or read beyond its tables.

    Raises:
        InvalidInputError: A token id is outside the vocabulary, a grid cannot be merged into
            tokens, or the pictures do not fit their places in the text.
    """
    ids, grid = item.input_ids, item.image_grid_thw
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise InvalidInputError(
            f"ids from {ids.min()} to {ids.max()}; expected 0 to {spec.vocab_size - 1}",
            field=contract.INPUT_IDS.name,
        )
    if (grid[:, 0] != 1).any() or (grid[:, 1:] % spec.merge_size).any():
        raise InvalidInputError(
            f"{grid.tolist()}; expected [1, h, w] with h and w multiples of {spec.merge_size}",
            field=contract.IMAGE_GRID_THW.name,
        )
    places = _run_lengths(ids == spec.image_token_id)
    expected = (grid.astype(np.int64).prod(axis=1) // spec.merge_size**2).tolist()
    if places != expected:
        raise InvalidInputError(
            f"the text has places for pictures of {places} tokens, but the pictures take "
            f"{expected} tokens",
            field=contract.INPUT_IDS.name,
        )


def _run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Returns the length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    lengths: list[int] = (edges[1::2] - edges[::2]).tolist()
    return lengths
