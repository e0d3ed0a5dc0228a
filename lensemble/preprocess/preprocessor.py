"""Turns items into features. This runs on CPUs and does not need the model's weights."""

from __future__ import annotations

import numpy as np

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess.features import Features
from lensemble.preprocess.patches import PlannedPicture
from lensemble.preprocess.prompt import PromptBuilder
from lensemble.scheduling.slots import Slots
from lensemble_contract import contract
from lensemble_contract.items import Item

_NO_PATCHES = np.empty((0, contract.PATCH_VALUES), np.uint8)
_NO_GRIDS = np.empty((0, 3), np.int32)


class Preprocessor:
    """Turns items into features, under the profile of one checkpoint.

    Args:
        checkpoint: the serving checkpoint.
        scaled: whether large JPEGs are decoded at a reduced size; see
            `PlannedPicture.patches`.
        slots: limits how many large pictures are decoded at the same time.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, scaled: bool = False, slots: Slots | None = None
    ) -> None:
        self._scaled, self._slots = scaled, slots
        self._image_profile = checkpoint.profile.image
        self._prompt = PromptBuilder(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)

    def __call__(self, item: Item) -> Features:
        """Preprocesses one item.

        Raises:
            InvalidInputError: A picture cannot be read or exceeds a limit, or the prompt is too
                long.
            OverloadedError: A picture is large, and no slot is free.
        """
        # Headers first: an item whose pictures exceed the prompt is refused before any is decoded.
        planned = [
            PlannedPicture(image, self._image_profile, f"{contract.IMAGE.name}[{n}]")
            for n, image in enumerate(item.images)
        ]
        ids = self._prompt.ids(item.text, [picture.tokens for picture in planned], item.instruction)
        pictures = [picture.patches(scaled=self._scaled, slots=self._slots) for picture in planned]
        patches = [rows for rows, _ in pictures]
        grids = [grid for _, grid in pictures]
        return Features(
            ids,
            np.concatenate(patches) if len(patches) > 1 else (patches or [_NO_PATCHES])[0],
            np.array(grids, np.int32) if grids else _NO_GRIDS,
        )
