"""Queries to an index, and their hits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class IndexHit(NamedTuple):
    """One item that a search found; a tuple, because a result may contain hundreds of them.

    Attributes:
        id: the caller's id.
        score: inner product of two unit vectors, -1 to 1; higher is nearer.
        document: JSON text stored with the item.
    """

    id: str
    score: float
    document: str


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        vector: (D,) float32, unit length; None means the vector of the stored item `like`.
        top_k: maximum number of hits.
        filter: JSON text of a filter on documents (`lensemble_contract.filters`); empty for none.
        exclude: ids that must not be returned.
        min_score: lowest score of a hit.
        like: id of a stored item whose neighbours are searched; the item itself is excluded. Empty
            if `vector` is set.
    """

    vector: NDArray[np.float32] | None
    top_k: int
    filter: str = ""
    exclude: tuple[str, ...] = ()
    min_score: float = -np.inf
    like: str = ""
