"""Checks of what is stored in an index and searched in it: ids, vectors and digests.

`documents` has the rule for documents. The clients, the index and the fake server of
`lensemble_client.testing` share these checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.texts import check_unicode, quoted

MAX_ID_BYTES = 512
MAX_DIGEST_CHARACTERS = 128
# Largest difference between a vector's length and 1. Sending a vector as float16 changes its length
# by less than this.
_UNIT_TOLERANCE = 1e-3


def check_id(id_: object, field: str = "id") -> str:
    """Checks an id: 1 to `MAX_ID_BYTES` bytes of UTF-8, without U+0000.

    Triton ends a text parameter at U+0000, and `like` would then search from another item.

    Args:
        id_: The id.
        field: Name of the input in error messages.

    Returns:
        The id.

    Raises:
        InvalidInputError: The id is not a string, is empty or too long, or contains U+0000 or a
            lone surrogate. Python puts lone surrogates into the names of files whose bytes are not
            UTF-8.
    """
    if not isinstance(id_, str):
        raise InvalidInputError(
            f"{str(id_)[:40]!r} is of type {type(id_).__name__}; expected a string, such as "
            f"{str(id_)[:40]!r}",
            field=field,
        )
    try:
        check_unicode(id_)
    except ValueError as error:
        raise InvalidInputError(f"{quoted(id_)} is {error}", field=field) from None
    if not id_:
        raise InvalidInputError(
            f"the id is empty; expected 1 to {MAX_ID_BYTES} bytes of UTF-8", field=field
        )
    size = len(id_.encode())
    if size > MAX_ID_BYTES:
        raise InvalidInputError(
            f"{quoted(id_)} has {size} bytes; expected 1 to {MAX_ID_BYTES}", field=field
        )
    return id_


def check_ids(ids: object, field: str = "ids") -> list[str]:
    """Checks several ids, and returns them as a list.

    Args:
        ids: A list, a set, a generator or the like; not one string, which would be taken apart into
            its letters.
        field: Name of the input in error messages.

    Raises:
        InvalidInputError: `ids` is a single string or not a collection, or an id is not valid; the
            error names its position.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise InvalidInputError(
            f"{quoted(ids)}; expected a list of ids, such as [{quoted(str(ids)[:40])}]",
            field=field,
        )
    return [check_id(id_, f"{field}[{n}]") for n, id_ in enumerate(ids)]


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
    """Checks that a vector (D,) of finite numbers, to be stored or searched for, has unit length.

    The score of a vector of another length would not be a cosine: 857 instead of 0.857, for
    example, or 0 for every item.

    Raises:
        InvalidInputError: Its length is not 1.
    """
    # In float64, because squares of large float32 numbers overflow.
    length = float(np.linalg.norm(vector.astype(np.float64)))
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
