"""What goes into a store and what comes out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensemble.index import check_id, check_query
from lensemble_contract.errors import InvalidInputError

MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DIGEST = 128
UNIT_TOLERANCE = 1e-3
"""How far from 1 a vector's length may be: what float16 on the way leaves of it."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """An item to be written.

    Attributes:
        id: The caller's own, 1 to 512 bytes of UTF-8.
        vector: (D,) float32, unit length.
        document: JSON text of an object.
        digest: Of what the vector was made from, at most 128 characters; empty if not known. An
            upsert of the same digest and document changes nothing.
    """

    id: str
    vector: NDArray[np.float32]
    document: str = "{}"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """An item to be removed.

    Attributes:
        id: The caller's own; one that is not there is no fault.
    """

    id: str


Change = Upsert | Delete


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item as it is stored.

    Attributes:
        row: Its number in the index.
        id: The caller's own.
        document: JSON text.
        vector: (D,) float32.
        sequence: The number of the change that wrote it.
        digest: See `Upsert`.
    """

    row: int
    id: str
    document: str
    vector: NDArray[np.float32]
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class StoreChanges:
    """What changed after some sequence number.

    Attributes:
        sequence: The number of the last change that is in here.
        rows: (N,) int64, rows that were written and are live, ascending.
        vectors: (N, D) float32, theirs.
        removed: (M,) int64, rows that were removed, in the order of removal; also those that came
            and went in between, as a snapshot of that time has them.
        removed_at: (M,) int64, the sequence numbers of the removals.
    """

    sequence: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    removed: NDArray[np.int64]
    removed_at: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoreContents:
    """All that is live at one moment, for a snapshot.

    Attributes:
        sequence: The number of the last change by then.
        last_row: The highest row number that was given away by then.
        rows: (N,) int64, ascending.
        vectors: (N, D) float32, theirs.
    """

    sequence: int
    last_row: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


def checked(change: Change, dimension: int) -> Change:
    """A change as the store keeps it, or a refusal.

    Args:
        change: What is to be written.
        dimension: Of the store's vectors.

    Raises:
        InvalidInputError: The id, the vector or the document is at fault.
    """
    check_id(change.id)
    if isinstance(change, Delete):
        return change
    check_query(dimension, change.vector)
    _check_length(change.vector)
    if len(change.digest) > MAX_DIGEST:
        raise InvalidInputError(
            f"{len(change.digest)} characters; expected at most {MAX_DIGEST}", field="digest"
        )
    document = _normalized(change.document)
    return change if document == change.document else replace(change, document=document)


def _check_length(vector: NDArray[np.float32]) -> None:
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > UNIT_TOLERANCE:
        raise InvalidInputError(
            f"the vector has length {length:.4g}; expected 1: divide it by its length",
            field="embedding",
        )


def _normalized(document: str) -> str:
    """The same object in JSON without escaped letters: SQLite finds no field by an escaped name."""
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


def _refuse_constant(name: str) -> object:
    # Python reads them, SQLite does not: one such document would stop every filter.
    raise ValueError(f"{name} is no JSON value")


# Made once: `json.loads` and `json.dumps` with options make theirs anew in each call.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
