"""Queries to an index, and their hits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class IndexHits(list[IndexHit]):
    """The items that a search found, nearest first.

    Args:
        hits: the items.
        warnings: hints about the query's filter, in words.

    Attributes:
        warnings: those hints; `lensemble_contract.filters` writes them.
    """

    def __init__(self, hits: Iterable[IndexHit] = (), warnings: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.warnings = tuple(warnings)


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
