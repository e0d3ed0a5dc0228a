"""Items -> features: the CPU's part of the way, without the model."""

from __future__ import annotations

import numpy as np

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess.decode import load_image
from lensemble.preprocess.features import Features
from lensemble.preprocess.prompt import Prompt
from lensemble_contract import contract
from lensemble_contract.items import Item

_NO_PATCHES = np.empty((0, contract.PATCH_VALUES), np.uint8)
_NO_GRIDS = np.empty((0, 3), np.int32)


class Preprocessor:
    """Makes features under one checkpoint's profile.

    Args:
        checkpoint: The serving checkpoint.
        scaled: Whether large JPEGs are decoded smaller; see `load_image`.
    """

    def __init__(self, checkpoint: Checkpoint, *, scaled: bool = False) -> None:
        self._scaled = scaled
        self._image = checkpoint.profile.image
        self._prompt = Prompt(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)

    def __call__(self, item: Item) -> Features:
        """Preprocesses one item.

        Raises:
            InvalidInputError: A picture cannot be read or is over a limit, or the prompt is too
                long.
        """
        loaded = [
            load_image(image, self._image, f"{contract.IMAGE.name}[{n}]", scaled=self._scaled)
            for n, image in enumerate(item.images)
        ]
        grids = [grid for _, grid in loaded]
        tokens_of_patches = self._image.merge_size**2
        ids = self._prompt.ids(
            item.text,
            [down * across // tokens_of_patches for _, down, across in grids],
            item.instruction,
        )
        patches = [rows for rows, _ in loaded]
        return Features(
            ids,
            np.concatenate(patches) if len(patches) > 1 else (patches or [_NO_PATCHES])[0],
            np.array(grids, np.int32) if grids else _NO_GRIDS,
        )
