"""The results of calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

# One vector (D,), float32, of unit length.
Embedding: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hit:
    """One stored item that a search found.

    Attributes:
        id: The id under which the caller stored the item.
        score: Inner product of unit vectors, -1 to 1; larger is nearer.
        document: The JSON document stored with the item.
    """

    id: str
    score: float
    document: dict[str, Any]


class Hits(list[Hit]):
    """The stored items that a search found, nearest first.

    Args:
        hits: The items.
        warnings: Hints about the filter.

    Attributes:
        warnings: Hints about the filter, in words, such as that no document has one of its fields;
            empty without a filter.
    """

    def __init__(self, hits: Iterable[Hit] = (), warnings: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.warnings = tuple(warnings)


@dataclass(frozen=True, slots=True)
class Stored:
    """One item as it is stored in the index.

    Attributes:
        id: The id under which the caller stored the item.
        document: The JSON document stored with the item.
        embedding: (D,) float32, unit length.
        sequence: Sequence number of the write that stored the item.
        digest: SHA-256 of the record from which the item was made (`Record.digest`); empty if it is
            not known.
    """

    id: str
    document: dict[str, Any]
    embedding: NDArray[np.float32]
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class ListedItem:
    """One stored item in a list, without its vector.

    Attributes:
        id: The id under which the caller stored the item.
        document: The JSON document stored with the item.
        sequence: Sequence number of the write that stored the item.
        digest: As in `Stored`.
    """

    id: str
    document: dict[str, Any]
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of a list of items, in the order of their ids as UTF-8.

    Attributes:
        items: The items.
        next: What `after` is in the call for the items behind these; None if there are none.
    """

    items: list[ListedItem]
    next: str | None


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """The result for one item, and what it cost.

    Attributes:
        result: The result itself.
        tokens: Number of tokens in the item's prompt, pictures included; 0 if nothing was encoded.
        times_ms: Stage (`preprocess`, `encode`, `search`, `store`) -> milliseconds for which the
            stage worked on the batch that contained the item. Waiting is not included.
        profile: Hash of the profile under which the vector was made; empty if the result is not a
            vector.
    """

    result: T
    tokens: int
    times_ms: Mapping[str, float]
    profile: str


@dataclass(frozen=True, slots=True)
class Status:
    """State of a server.

    Attributes:
        server: Name and version of the server.
        models: Model name -> whether the model can serve now.
    """

    server: str
    models: dict[str, bool]
