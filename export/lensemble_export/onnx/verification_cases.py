"""Items on which the graphs must agree with the reference: made up, the same every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensemble.encoder.input_spec import InputSpec
from lensemble.preprocess.features import Features
from lensemble_contract import contract

_SHORT, _LONG = 6, 700
_SIDES = {  # patches down and across
    "square": (16, 16),
    "portrait": (22, 10),
    "landscape": (10, 30),
    "thin": (2, 40),
    "least": (2, 2),
}
_FRAME = 4
"""Tokens before and after what an item is about, as a prompt has."""


def make_cases(geometry: InputSpec, seed: int = 0) -> dict[str, list[Features]]:
    """What is encoded together: name -> items.

    Args:
        geometry: Of the model.
        seed: Of ids and pixels.
    """
    make = _Maker(geometry, seed)
    pictures = {name: make.item(0, [sides]) for name, sides in _SIDES.items()}
    several = make.item(9, [(8, 12), (12, 8), (4, 4)])
    both = make.item(20, [(12, 14)])
    mixed = [make.item(5), several, make.item(90), *pictures.values(), both, make.item(1)]
    return {
        "one token": [make.item(0, frame=1)],
        "short text": [make.item(_SHORT)],
        "long text": [make.item(_LONG)],
        "texts of one length": [make.item(_SHORT) for _ in range(8)],
        "texts of all lengths": [make.item(n) for n in (1, 2, 3, 5, 8, 13, 60, 200)],
        **{f"picture: {name}": [item] for name, item in pictures.items()},
        "pictures of one size": [make.item(0, [(8, 8)]) for _ in range(5)],
        "picture with text": [both],
        "several pictures": [several],
        "all together": mixed,
        "all together, turned around": mixed[::-1],
        "33 items": [make.item(n % 7, [(6, 8)] * (n % 3)) for n in range(33)],
    }


class _Maker:
    def __init__(self, geometry: InputSpec, seed: int) -> None:
        self._geometry, self._rng = geometry, np.random.default_rng(seed)
        self._begin, self._end = self._ids(_FRAME), self._ids(_FRAME)

    def item(
        self, tokens: int, sides: list[tuple[int, int]] | None = None, frame: int = _FRAME
    ) -> Features:
        """Some text, with pictures before it."""
        sides = sides or []
        unit = self._geometry.merge_size
        places = [
            np.full(down * across // unit**2, self._geometry.image_token_id, np.int32)
            for down, across in sides
        ]
        apart = [part for place in places for part in (place, self._ids(1))]
        end = self._end if frame > 1 else self._end[:0]
        ids = np.concatenate([self._begin[:frame], *apart, self._ids(tokens), end])
        patches = [self._patches(down, across) for down, across in sides]
        none = np.empty((0, contract.PATCH_VALUES), np.uint8)
        grid = np.array([(1, *pair) for pair in sides], np.int32).reshape(-1, 3)
        return Features(ids, np.concatenate([none, *patches]), grid)

    def _ids(self, count: int) -> NDArray[np.int32]:
        ids = self._rng.integers(0, self._geometry.vocab_size, count, dtype=np.int32)
        ids[ids == self._geometry.image_token_id] = 0
        return ids

    def _patches(self, down: int, across: int) -> NDArray[np.uint8]:
        """Smooth pixels with noise: what pictures are like."""
        count = down * across
        ramp = np.linspace(0, 200, count)[:, None] + self._rng.normal(0, 20, contract.PATCH_VALUES)
        pixels = ramp + self._rng.normal(0, 12, ramp.shape)
        patches: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)
        return patches
