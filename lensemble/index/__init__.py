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

__all__ = ["Index", "Match", "check_id", "check_profile", "check_query"]

MAX_ID_BYTES = 512


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
