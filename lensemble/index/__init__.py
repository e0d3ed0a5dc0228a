"""The index: vectors of a corpus, and what is nearest to a query.

`Index` is all that the rest of the package knows of a way to search; `live` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lensemble.index.query import IndexHit, Query
from lensemble_contract.errors import InvalidInputError, LensembleError

__all__ = ["Index", "IndexHit", "Query", "check_id", "check_profile", "check_query"]

MAX_ID_BYTES = 512


class Index(Protocol):
    """A corpus that can be searched."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the index is: kind, profile hash, dimension, count, versions."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    def answer(self, queries: Sequence[Query]) -> list[list[IndexHit] | LensembleError]:
        """Finds the nearest items.

        Args:
            queries: Any number, with vectors of `dimension`.

        Returns:
            Per query, up to `top_k` matches, nearest first, or its own error. There are fewer only
            if fewer items fit; an approximate index may miss some for others less near.

        Raises:
            StorageError: The store is damaged.
            InvalidInputError: Another index stands in this one's place, of another profile.
        """


def check_profile(name: str, hash_: str, given: str) -> None:
    """Refuses vectors that cannot be compared with an index's.

    Args:
        name: Of the index's profile.
        hash_: Of the index's profile.
        given: Hash of the profile that the vectors were made under.

    Raises:
        InvalidInputError: It is another one.
    """
    if hash_ != given:
        raise InvalidInputError(
            f"the index was built under profile {name!r} {hash_}, the vectors were made under "
            f"{given}; they cannot be compared: use the checkpoint of the index, or build the "
            "index again with this one",
            field="profile",
        )


def check_id(id_: str) -> None:
    """Refuses an id that cannot be sent: it must be 1 to `MAX_ID_BYTES` bytes of UTF-8.

    Raises:
        InvalidInputError: It is empty, too long, or holds a lone surrogate, as the name of a file
            does that is not UTF-8.
    """
    try:
        size = len(id_.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{id_!r} is not valid Unicode", field="id") from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidInputError(
            f"{id_[:40]!r}... has {size} bytes; expected 1 to {MAX_ID_BYTES}", field="id"
        )


def check_query(dimension: int, query: Sequence[int] | NDArray[Any]) -> None:
    """Refuses a query vector (D,) that the index cannot answer.

    Raises:
        InvalidInputError: Another length than the index's, or not finite.
    """
    if len(query) != dimension:
        raise InvalidInputError(
            f"the query has {len(query)} dimensions, the index {dimension}; leave `dimensions` "
            "out, or build an index of that length",
            field="embedding",
        )
    if not np.isfinite(query).all():
        raise InvalidInputError("not finite", field="embedding")
