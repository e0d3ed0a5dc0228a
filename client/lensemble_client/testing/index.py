"""The index of the fake server: exact search, filters and writes."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lensemble_client.results import Embedding, Hit, Stored
from lensemble_client.testing.filters import matches
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.filters import Condition

_MAX_ID_BYTES = 512
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class SearchConditions:
    """The conditions that an item must meet to be a hit.

    Attributes:
        top_k: Largest number of hits.
        filter: Condition on documents.
        exclude: Ids that must not be among the hits.
        min_score: Smallest score of a hit.
    """

    top_k: int
    filter: Condition
    exclude: Collection[str]
    min_score: float


class FakeIndex:
    """The items of the fake server, with exact search.

    Args:
        dimension: Length D of every vector.

    Attributes:
        items: Id -> the stored item.
        sequence: Sequence number of the last write.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.items: dict[str, Stored] = {}
        self.sequence = 0

    def upsert(self, id_: str, vector: Embedding, document: bytes, digest: str) -> int:
        """Stores an item, and returns the sequence number of the write.

        Raises:
            InvalidInputError: The id, the vector or the document is not valid.
        """
        self._check(id_, vector)
        content = json.loads(document)
        if not isinstance(content, dict):
            raise InvalidInputError("expected a JSON object", field="document")
        old = self.items.get(id_)
        if old is not None and digest and (old.digest, old.document) == (digest, content):
            return old.sequence
        self.sequence += 1
        self.items[id_] = Stored(id_, content, vector, self.sequence, digest)
        return self.sequence

    def delete(self, id_: str) -> int:
        """Removes an item; returns the sequence number of the removal, 0 if there was no item."""
        if self.items.pop(id_, None) is None:
            return 0
        self.sequence += 1
        return self.sequence

    def search(self, vector: Embedding, conditions: SearchConditions) -> list[Hit]:
        """Returns the nearest items to a vector (D,), nearest first."""
        hits = [
            Hit(item.id, float(item.embedding @ vector), item.document)
            for item in self.items.values()
            if item.id not in conditions.exclude and matches(conditions.filter, item.document)
        ]
        hits = [hit for hit in hits if hit.score >= conditions.min_score]
        return sorted(hits, key=lambda hit: -hit.score)[: conditions.top_k]

    def _check(self, id_: str, vector: Embedding) -> None:
        if not 1 <= (size := len(id_.encode())) <= _MAX_ID_BYTES:
            raise InvalidInputError(f"{size} bytes; expected 1 to {_MAX_ID_BYTES}", field="id")
        if vector.shape != (self._dimension,):
            raise InvalidInputError(
                f"length {len(vector)}; expected {self._dimension}", field="embedding"
            )
        if abs(float(np.linalg.norm(vector)) - 1) > _UNIT_TOLERANCE:
            raise InvalidInputError("expected a vector of unit length", field="embedding")
