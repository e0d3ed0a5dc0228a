"""The index: stores the vectors of a corpus, and finds the nearest ones to a query.

`Index` is the interface that the stages use; `search.live_index.LiveIndex` implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lensemble.index.query import IndexHit, Query
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.index_checks import check_id, check_vector

__all__ = ["Index", "IndexHit", "Query", "check_id", "check_profile", "check_vector"]


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
            fewer hits only if fewer items match. An approximate kind of index may miss a near item
            and return one that is less near.

        Raises:
            StorageError: The store is damaged.
            InvalidInputError: The index was replaced by one of another profile.
        """


def check_profile(index_name: str, index_hash: str, vectors_hash: str) -> None:
    """Checks that vectors can be compared with those of an index.

    Args:
        index_name: name of the index's profile.
        index_hash: hash of the index's profile.
        vectors_hash: hash of the profile of the vectors.

    Raises:
        InvalidInputError: The hashes differ.
    """
    if index_hash != vectors_hash:
        raise InvalidInputError(
            f"the index was built under profile {index_name!r} {index_hash}, and the vectors were "
            f"made under {vectors_hash}; they cannot be compared: use the checkpoint of the index, "
            "or build the index again with the checkpoint of the vectors",
            field="profile",
        )
