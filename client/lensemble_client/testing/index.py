"""The index of the fake server: exact search, filters and writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lensemble_client.results import Embedding, Hit, Stored
from lensemble_client.testing.filters import MISSING, field_of, matches
from lensemble_contract.documents import (
    digest_after_document_change,
    merge_patch,
    normalized_document,
)
from lensemble_contract.filters import Condition, compared_fields, kind_of
from lensemble_contract.index_checks import (
    check_digest,
    check_id,
    check_unit_length,
    check_vector,
)


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


@dataclass(frozen=True, slots=True)
class FakeUpsert:
    """An item to write.

    Attributes:
        id: The caller's id.
        vector: (D,) float32, unit length.
        document: JSON text of an object.
        digest: Digest of the content; empty if unknown.
    """

    id: str
    vector: Embedding
    document: str
    digest: str


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

    def upsert(self, items: Sequence[FakeUpsert]) -> list[int]:
        """Stores items, and returns the sequence number of each write.

        Raises:
            InvalidInputError: An id, a vector or a document is not valid; then none is stored.
        """
        checked = [self._checked(item) for item in items]
        return [self._write(item) for item in checked]

    def delete(self, ids: Sequence[str]) -> list[int]:
        """Removes items; returns the sequence number of each removal, 0 if there was no item.

        Raises:
            InvalidInputError: An id is not valid; then none is removed.
        """
        for id_ in ids:
            check_id(id_)
        return [self._remove(id_) for id_ in ids]

    def _remove(self, id_: str) -> int:
        if self.items.pop(id_, None) is None:
            return 0
        self.sequence += 1
        return self.sequence

    def change(self, id_: str, document: str, merge: bool, digest: str) -> int:
        """Changes an item's document; returns the sequence number, 0 if there is no such item.

        Args:
            id_: The caller's id.
            document: JSON text of an object.
            merge: Whether the object is merged into the stored one, or replaces it.
            digest: Digest of the item from now on; empty to derive it from the stored one.

        Raises:
            InvalidInputError: The id or the document is not valid.
        """
        check_id(id_)
        check_digest(digest)
        changes = json.loads(normalized_document(document))
        old = self.items.get(id_)
        if old is None:
            return 0
        after = merge_patch(old.document, changes) if merge else changes
        is_same = json.dumps(after) == json.dumps(old.document)
        kept = old.digest if is_same else digest_after_document_change(old.digest)
        text = normalized_document(json.dumps(after))
        return self._write(FakeUpsert(id_, old.embedding, text, digest or kept))

    def matching(self, condition: Condition) -> list[Stored]:
        """Returns the items that meet a condition, in the order of their ids as UTF-8."""
        found = [item for item in self.items.values() if matches(condition, item.document)]
        return sorted(found, key=lambda item: item.id.encode())

    def warnings(self, condition: Condition) -> list[str]:
        """Returns hints about a filter, such as a field that no document has."""
        hints = []
        for compared in compared_fields(condition):
            values = [field_of(item.document, compared.field) for item in self.items.values()]
            found = {kind_of(value) for value in values if value is not MISSING}
            if not found & compared.kinds:
                hints.append(compared.warning(found))
        return hints

    def search(self, vector: Embedding, conditions: SearchConditions) -> list[Hit]:
        """Returns the nearest items to a vector (D,), nearest first.

        Raises:
            InvalidInputError: The vector has another dimension, a value that is not finite, or not
                unit length.
        """
        check_vector(self._dimension, vector)
        check_unit_length(vector)
        hits = [
            Hit(item.id, float(item.embedding @ vector), item.document)
            for item in self.items.values()
            if item.id not in conditions.exclude and matches(conditions.filter, item.document)
        ]
        hits = [hit for hit in hits if hit.score >= conditions.min_score]
        return sorted(hits, key=lambda hit: -hit.score)[: conditions.top_k]

    def _checked(self, item: FakeUpsert) -> FakeUpsert:
        check_id(item.id)
        check_vector(self._dimension, item.vector)
        check_unit_length(item.vector)
        check_digest(item.digest)
        # The array is the caller's, who may change it later.
        document = normalized_document(item.document)
        return replace(item, vector=item.vector.copy(), document=document)

    def _write(self, item: FakeUpsert) -> int:
        content = json.loads(item.document)
        old = self.items.get(item.id)
        # As text, 1, 1.0 and true differ.
        if (
            old is not None
            and (json.dumps(old.document), old.digest) == (json.dumps(content), item.digest)
            and (item.digest or np.array_equal(old.embedding, item.vector))
        ):
            return old.sequence
        self.sequence += 1
        self.items[item.id] = Stored(item.id, content, item.vector, self.sequence, item.digest)
        return self.sequence
