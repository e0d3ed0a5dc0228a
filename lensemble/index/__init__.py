"""The index: stores the vectors of a corpus, and finds the nearest ones to a query.

`Index` is the interface that the stages use; `search.live_index.LiveIndex` implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lensemble.index.query import IndexHit, IndexHits, Query
from lensemble_contract.errors import LensembleError

__all__ = ["Index", "IndexHit", "IndexHits", "Query"]


class Index(Protocol):
    """A corpus that can be searched."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Description of the index: kind, profile, dimension, number of items, versions."""

    @property
    def dimension(self) -> int:
        """Length D of the vectors."""

    def answer(self, queries: Sequence[Query]) -> list[IndexHits | LensembleError]:
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
