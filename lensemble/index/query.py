"""What is asked of an index, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class IndexHit(NamedTuple):
    """One item that was found; a tuple, as there are hundreds in an answer.

    Attributes:
        id: The caller's own id.
        score: Inner product of unit vectors, -1 to 1; bigger is nearer.
        document: The JSON text stored with the item.
    """

    id: str
    score: float
    document: str


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Attributes:
        vector: (D,) float32, unit length; None takes the one of the item `like`.
        top_k: How many items at most.
        filter: JSON text of a condition on documents (`filter`); empty for none.
        exclude: Ids that are not to be found.
        min_score: Only items with this score or more.
        like: Id of a stored item to find the neighbours of, itself excluded; empty if a vector is
            given.
    """

    vector: NDArray[np.float32] | None
    top_k: int
    filter: str = ""
    exclude: tuple[str, ...] = ()
    min_score: float = -np.inf
    like: str = ""
