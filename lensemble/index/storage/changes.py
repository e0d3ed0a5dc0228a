"""Changes that a caller may write to a store, and the checks that each change must pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.documents import (
    digest_after_document_change,
    document_text,
    merge_patch,
    normalized_document,
)
from lensemble_contract.index_checks import (
    check_digest,
    check_id,
    check_unit_length,
    check_vector,
)


@dataclass(frozen=True, slots=True)
class Upsert:
    """An item to write; it replaces the live item with the same id.

    Attributes:
        id: the caller's id, 1 to 512 bytes of UTF-8.
        vector: (D,) float32, unit length.
        document: JSON text of an object.
        digest: digest of the input that the vector was computed from, at most 128 characters;
            empty if unknown. If digest and document equal the stored ones, nothing is written;
            if both digests are empty, the vectors must be equal, too.
    """

    id: str
    vector: NDArray[np.float32]
    document: str = "{}"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """An item to remove.

    Attributes:
        id: the caller's id; if there is no such item, nothing is removed.
    """

    id: str


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """A change of an item's document, which keeps its vector.

    Attributes:
        id: the caller's id; if there is no such item, nothing is written.
        document: JSON text of an object.
        merge: whether the object is merged into the stored one (RFC 7396: null removes a field),
            or replaces it.
        digest: digest of the item from now on; empty to derive it from the stored one.
    """

    id: str
    document: str
    merge: bool
    digest: str = ""


Change = Upsert | Delete | DocumentChange


def checked_change(change: Change, dimension: int) -> Change:
    """Checks a change, and returns it with its document in the form in which the store keeps it.

    Args:
        change: change to check.
        dimension: length D of the store's vectors.

    Raises:
        InvalidInputError: The id, the vector, the digest or the document is not valid.
    """
    check_id(change.id)
    if isinstance(change, Delete):
        return change
    if isinstance(change, Upsert):
        check_vector(dimension, change.vector)
        check_unit_length(change.vector)
    check_digest(change.digest)
    document = normalized_document(change.document)
    return change if document == change.document else replace(change, document=document)


def changed_item(change: DocumentChange, document: str, digest: str) -> tuple[str, str]:
    """The document and the digest of an item after a change of its document.

    Args:
        change: checked change.
        document: stored document, JSON text.
        digest: stored digest.

    Raises:
        InvalidInputError: The merged document is not valid, for instance because it is too long.
    """
    after = change.document
    if change.merge:
        after = document_text(merge_patch(json.loads(document), json.loads(change.document)))
    if change.digest:
        return after, change.digest
    return after, digest if after == document else digest_after_document_change(digest)
