"""Synthetic items for which graphs and reference must give the same vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder.input_spec import InputSpec
from lensemble.preprocess.features import Features
from lensemble_contract import contract

# Number of tokens of a short and of a long text.
_SHORT, _LONG = 6, 700
# Height and width of pictures, in patches.
_PICTURE_SIZES = {
    "square": (16, 16),
    "portrait": (22, 10),
    "landscape": (10, 30),
    "thin": (2, 40),
    "smallest": (2, 2),
}
# Number of the prompt's tokens before an item's content, and also after it.
_PROMPT_TOKENS = 4


def make_cases(input_spec: InputSpec, seed: int = 0) -> dict[str, list[Features]]:
    """Makes the cases, each a list of items that are encoded together; equal for an equal seed.

    Args:
        input_spec: the sizes and token ids of the model.
        seed: seed of token ids and pixels.

    Returns:
        Name of the case -> items.
    """
    make = _ItemMaker(input_spec, seed)
    pictures = {name: make.item(0, [size]) for name, size in _PICTURE_SIZES.items()}
    several = make.item(9, [(8, 12), (12, 8), (4, 4)])
    both = make.item(20, [(12, 14)])
    mixed = [make.item(5), several, make.item(90), *pictures.values(), both, make.item(1)]
    return {
        "one token": [make.item(0, prompt_tokens=1)],
        "short text": [make.item(_SHORT)],
        "long text": [make.item(_LONG)],
        "texts of one length": [make.item(_SHORT) for _ in range(8)],
        "texts of all lengths": [make.item(n) for n in (1, 2, 3, 5, 8, 13, 60, 200)],
        **{f"picture: {name}": [item] for name, item in pictures.items()},
        "pictures of one size": [make.item(0, [(8, 8)]) for _ in range(5)],
        "picture with text": [both],
        "several pictures": [several],
        "all together": mixed,
        "all together, reversed": mixed[::-1],
        "33 items": [make.item(n % 7, [(6, 8)] * (n % 3)) for n in range(33)],
    }


class _ItemMaker:
    """Makes items with random token ids and pixels, and with the same prompt."""

    def __init__(self, input_spec: InputSpec, seed: int) -> None:
        self._spec, self._rng = input_spec, np.random.default_rng(seed)
        self._prompt_start = self._random_ids(_PROMPT_TOKENS)
        self._prompt_end = self._random_ids(_PROMPT_TOKENS)

    def item(
        self,
        text_tokens: int,
        picture_sizes: list[tuple[int, int]] | None = None,
        prompt_tokens: int = _PROMPT_TOKENS,
    ) -> Features:
        """An item with pictures, each followed by one token, and then a text."""
        sizes = picture_sizes or []
        image_ids = [
            np.full(height * width // self._spec.merge_size**2, self._spec.image_token_id, np.int32)
            for height, width in sizes
        ]
        picture_ids = [part for ids in image_ids for part in (ids, self._random_ids(1))]
        end = self._prompt_end if prompt_tokens > 1 else self._prompt_end[:0]
        ids = np.concatenate(
            [self._prompt_start[:prompt_tokens], *picture_ids, self._random_ids(text_tokens), end]
        )
        patches = [self._random_patches(height * width) for height, width in sizes]
        no_patches = np.empty((0, contract.PATCH_VALUES), np.uint8)
        grid = np.array([(1, *size) for size in sizes], np.int32).reshape(-1, 3)
        return Features(ids, np.concatenate([no_patches, *patches]), grid)

    def _random_ids(self, count: int) -> NDArray[np.int32]:
        ids = self._rng.integers(0, self._spec.vocab_size, count, dtype=np.int32)
        ids[ids == self._spec.image_token_id] = 0
        return ids

    def _random_patches(self, count: int) -> NDArray[np.uint8]:
        """A smooth ramp with noise, because neighbouring pixels of real pictures are similar."""
        ramp = np.linspace(0, 200, count)[:, None] + self._rng.normal(0, 20, contract.PATCH_VALUES)
        pixels = ramp + self._rng.normal(0, 12, ramp.shape)
        patches: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)
        return patches
