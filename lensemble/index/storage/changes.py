"""Changes that a caller may write to a store, and the checks that each change must pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.documents import normalized_document
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


Change = Upsert | Delete


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
    check_vector(dimension, change.vector)
    check_unit_length(change.vector)
    check_digest(change.digest)
    document = normalized_document(change.document)
    return change if document == change.document else replace(change, document=document)
