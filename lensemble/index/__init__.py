"""The index: vectors of a corpus, and what is nearest to a query.

`Index` is all that the rest of the package knows of a way to search; `exact` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lensemble.profile import Profile
from lensemble_client.errors import InvalidInputError

__all__ = ["Index", "Match", "check_profile"]


@dataclass(frozen=True, slots=True)
class Match:
    """One item that was found.

    Attributes:
        id: The caller's own id.
        score: Inner product of unit vectors, -1 to 1; bigger is nearer.
        document: The JSON text stored with the item.
    """

    id: str
    score: float
    document: str


class Index(Protocol):
    """A corpus that can be searched."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the index is: kind, profile hash, dimension, count, versions."""

    def search(self, queries: NDArray[np.float32], top_k: int) -> list[list[Match]]:
        """Finds the nearest items.

        Args:
            queries: (B, D) float32, unit length, D as in the manifest.
            top_k: How many at most.

        Returns:
            Per query, up to `top_k` matches, nearest first; fewer only if the corpus is smaller.
        """


def check_profile(manifest: dict[str, Any], profile: Profile) -> None:
    """Refuses an index whose vectors cannot be compared with the server's.

    Raises:
        InvalidInputError: It was built under another profile.
    """
    if manifest["profile_hash"] != profile.hash:
        raise InvalidInputError(
            f"the index was built under profile {manifest['profile_name']!r} "
            f"{manifest['profile_hash']}, the server's is {profile.name!r} {profile.hash}; "
            "their vectors cannot be compared: build the index again with this checkpoint",
            field="index",
        )


def check_query(dimension: int, query: Sequence[int] | NDArray[Any]) -> None:
    """Refuses a query vector (D,) that the index cannot answer.

    Raises:
        InvalidInputError: Another length than the index's, or not finite.
    """
    if len(query) != dimension:
        raise InvalidInputError(
            f"the query has {len(query)} dimensions, the index {dimension}; leave `dimensions` "
            "out or build an index of that length",
            field="embedding",
        )
    if not np.isfinite(query).all():
        raise InvalidInputError("not finite", field="embedding")
