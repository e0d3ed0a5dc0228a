"""Features of items, made by hand."""

import numpy as np

from lensemble.preprocess.features import Features


def text(tokens: int, id_: int = 5) -> Features:
    """A text of one token that is repeated."""
    return Features(
        np.full(tokens, id_, np.int32), np.empty((0, 768), np.uint8), np.empty((0, 3), np.int32)
    )


def mixed(*parts: int | tuple[int, int]) -> Features:
    """Numbers stand for texts of that many tokens, pairs for pictures of h x w patches.

    The id of a picture's tokens is 99.
    """
    ids, grids = [], []
    for part in parts:
        if isinstance(part, int):
            ids += [1] * part
        else:
            ids += [99] * (part[0] * part[1] // 4)
            grids.append((1, *part))
    patches = sum(h * w for _, h, w in grids)
    return Features(
        np.array(ids, np.int32),
        np.zeros((patches, 768), np.uint8),
        np.array(grids, np.int32).reshape(-1, 3),
    )
