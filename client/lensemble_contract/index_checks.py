"""Checks of what is stored in an index and searched in it: ids, vectors, digests and documents.

The index and the fake server of `lensemble_client.testing` share them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.filters import refuse_constant

MAX_ID_BYTES = 512
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DIGEST_CHARACTERS = 128
# Largest difference between a vector's length and 1. Sending a vector as float16 changes its length
# by less than this.
_UNIT_TOLERANCE = 1e-3


def check_id(id_: str) -> None:
    """Checks that an id has 1 to `MAX_ID_BYTES` bytes of UTF-8.

    Raises:
        InvalidInputError: The id is empty or too long, or it contains a lone surrogate. Python puts
            lone surrogates into the names of files whose bytes are not UTF-8.
    """
    try:
        size = len(id_.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{id_!r} is not valid Unicode", field="id") from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidInputError(
            f"{id_[:40]!r}... has {size} bytes; expected 1 to {MAX_ID_BYTES}", field="id"
        )


def check_vector(dimension: int, vector: Sequence[int] | NDArray[Any]) -> None:
    """Checks a vector that is to be stored in an index, or searched in it.

    Args:
        dimension: Dimension of the index.
        vector: (D,) numbers.

    Raises:
        InvalidInputError: The vector has another dimension, or a value that is not finite.
    """
    if len(vector) != dimension:
        raise InvalidInputError(
            f"the vector has {len(vector)} dimensions, the index {dimension}; leave `dimensions` "
            "out, or build an index of that dimension",
            field="embedding",
        )
    if not np.isfinite(vector).all():
        raise InvalidInputError("a value is not finite; send finite numbers", field="embedding")


def check_unit_length(vector: NDArray[np.float32]) -> None:
    """Checks that a vector (D,) that is to be stored has unit length.

    Raises:
        InvalidInputError: Its length is not 1.
    """
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > _UNIT_TOLERANCE:
        raise InvalidInputError(
            f"the vector has length {length:.4g}; expected 1: divide it by its length",
            field="embedding",
        )


def check_digest(digest: str) -> None:
    """Checks the digest of an item.

    Raises:
        InvalidInputError: It is too long.
    """
    if len(digest) > MAX_DIGEST_CHARACTERS:
        raise InvalidInputError(
            f"{len(digest)} characters; expected at most {MAX_DIGEST_CHARACTERS}",
            field="digest",
        )


def normalized_document(document: str) -> str:
    """The same object as JSON text without escaped letters.

    SQLite does not find a field whose name has escaped letters.

    Args:
        document: JSON text of an object.

    Raises:
        InvalidInputError: The text is not a JSON object, or it is too long.
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
