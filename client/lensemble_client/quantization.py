"""Vectors in less memory: 8 bits or one bit for each component.

For stores that take such vectors. Lensemble's own index keeps whole vectors and has kinds that
search in 8 bits (`sq8`) or one (`binary`), and then score what they find with the whole ones.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError

OutputDtype = Literal["float", "int8", "ubinary"]
"""As Cohere's and Voyage's APIs name them."""

_MOST = 127


def quantize(vectors: NDArray[np.float32], output_dtype: OutputDtype) -> NDArray[Any]:
    """Vectors as asked for.

    Args:
        vectors: (..., D) float32.
        output_dtype: `float` leaves them; `int8` gives (..., D), each vector scaled so that its
            largest component is 127 or -127, which leaves cosines what they are up to rounding;
            `ubinary` gives (..., ceil(D / 8)) uint8, eight components a byte, the first in the
            highest bit, 1 where it is above 0.

    Raises:
        InvalidInputError: There is no such dtype.
    """
    if output_dtype == "float":
        return vectors
    if output_dtype == "ubinary":
        return np.packbits(vectors > 0, axis=-1)
    if output_dtype == "int8":
        largest = np.abs(vectors).max(axis=-1, keepdims=True)
        scaled = vectors * (_MOST / np.where(largest > 0, largest, 1))
        return np.rint(scaled).astype(np.int8)
    raise InvalidInputError(
        f"{output_dtype!r}; expected one of {', '.join(get_args(OutputDtype))}",
        field="output_dtype",
    )
