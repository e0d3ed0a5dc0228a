"""The index: stores the vectors of a corpus, and finds the nearest ones to a query.

`Index` is the interface that the stages use; `search.live_index.LiveIndex` implements it.
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
        """Description of the index: kind, profile, dimension, number of items, versions."""

    @property
    def dimension(self) -> int:
        """Length D of the vectors."""

    def answer(self, queries: Sequence[Query]) -> list[list[IndexHit] | LensembleError]:
        """Finds the nearest items.

        Args:
            queries: any number of queries, with vectors (D,).

        Returns:
            For each query up to `top_k` hits, nearest first, or the query's own error. There are
            fewer hits only if fewer items match; an approximate index may return items that are
            less near in place of nearer ones.

        Raises:
            StorageError: The store is damaged.
            InvalidInputError: The index was replaced by one of another profile.
        """


def check_profile(name: str, hash_: str, vectors_hash: str) -> None:
    """Checks that vectors can be compared with those of an index.

    Args:
        name: name of the index's profile.
        hash_: hash of the index's profile.
        vectors_hash: hash of the profile of the vectors.

    Raises:
        InvalidInputError: The hashes differ.
    """
    if hash_ != vectors_hash:
        raise InvalidInputError(
            f"the index was built under profile {name!r} {hash_}, the vectors were made under "
            f"{vectors_hash}; they cannot be compared: use the checkpoint of the index, or build "
            "the index again with this one",
            field="profile",
        )


def check_id(id_: str) -> None:
    """Checks that an id can be sent: it must have 1 to `MAX_ID_BYTES` bytes of UTF-8.

    Raises:
        InvalidInputError: The id is empty or too long, or it has a lone surrogate. Python puts lone
            surrogates into file names that are not UTF-8.
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
    """Checks that an index of the given dimension can answer a query vector (D,).

    Raises:
        InvalidInputError: The vector has another length, or a value that is not finite.
    """
    if len(query) != dimension:
        raise InvalidInputError(
            f"the query has {len(query)} dimensions, the index {dimension}; leave `dimensions` "
            "out, or build an index of that length",
            field="embedding",
        )
    if not np.isfinite(query).all():
        raise InvalidInputError("a value is not finite; send finite numbers", field="embedding")
