"""Changes that a caller may write to a store, and the checks that each change must pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensemble.index import check_id, check_vector
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.filters import refuse_constant

MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DIGEST_CHARACTERS = 128
# Largest difference between a vector's length and 1. Sending a vector as float16 changes its length
# by less than this.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Upsert:
    """An item to write; it replaces the live item with the same id.

    Attributes:
        id: the caller's id, 1 to 512 bytes of UTF-8.
        vector: (D,) float32, unit length.
        document: JSON text of an object.
        digest: digest of the input that the vector was computed from, at most 128 characters;
            empty if unknown. If digest and document equal the stored ones, nothing is written.
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
    _check_unit_length(change.vector)
    if len(change.digest) > MAX_DIGEST_CHARACTERS:
        raise InvalidInputError(
            f"{len(change.digest)} characters; expected at most {MAX_DIGEST_CHARACTERS}",
            field="digest",
        )
    document = _normalized_json(change.document)
    return change if document == change.document else replace(change, document=document)


def _check_unit_length(vector: NDArray[np.float32]) -> None:
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > UNIT_TOLERANCE:
        raise InvalidInputError(
            f"the vector has length {length:.4g}; expected 1: divide it by its length",
            field="embedding",
        )


def _normalized_json(document: str) -> str:
    """The same object as JSON text without escaped letters.

    SQLite does not find a field whose name has escaped letters.
    """
    try:
        parsed = _DECODER.decode(document)
        text = _ENCODER.encode(parsed)
        size = len(text.encode())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", field="document") from error
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidInputError(
            f"{size} bytes; expected at most {MAX_DOCUMENT_BYTES}", field="document"
        )
    if not isinstance(parsed, dict):
        raise InvalidInputError(
            f"a JSON {type(parsed).__name__}; expected an object", field="document"
        )
    return text


# Built once: `json.loads` and `json.dumps` build a new codec on every call that has options.
# SQLite's JSON has no NaN and Infinity; a document with such a value would make every filter fail.
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
