"""Turns items into features. This runs on CPUs and does not need the model's weights."""

from __future__ import annotations

import numpy as np

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess.features import Features
from lensemble.preprocess.patches import picture_to_patches
from lensemble.preprocess.prompt import PromptBuilder
from lensemble_contract import contract
from lensemble_contract.items import Item

_NO_PATCHES = np.empty((0, contract.PATCH_VALUES), np.uint8)
_NO_GRIDS = np.empty((0, 3), np.int32)


class Preprocessor:
    """Turns items into features, under the profile of one checkpoint.

    Args:
        checkpoint: the serving checkpoint.
        scaled: whether large JPEGs are decoded at a reduced size; see `picture_to_patches`.
    """

    def __init__(self, checkpoint: Checkpoint, *, scaled: bool = False) -> None:
        self._scaled = scaled
        self._image_profile = checkpoint.profile.image
        self._prompt = PromptBuilder(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)

    def __call__(self, item: Item) -> Features:
        """Preprocesses one item.

        Raises:
            InvalidInputError: A picture cannot be read or exceeds a limit, or the prompt is too
                long.
        """
        pictures = [
            picture_to_patches(
                image, self._image_profile, f"{contract.IMAGE.name}[{n}]", scaled=self._scaled
            )
            for n, image in enumerate(item.images)
        ]
        grids = [grid for _, grid in pictures]
        patches_per_token = self._image_profile.merge_size**2
        ids = self._prompt.ids(
            item.text,
            [rows * columns // patches_per_token for _, rows, columns in grids],
            item.instruction,
        )
        patches = [rows for rows, _ in pictures]
        return Features(
            ids,
            np.concatenate(patches) if len(patches) > 1 else (patches or [_NO_PATCHES])[0],
            np.array(grids, np.int32) if grids else _NO_GRIDS,
        )
