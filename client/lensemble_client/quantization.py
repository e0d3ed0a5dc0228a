"""Vectors in less memory: 8 bits or one bit for each component.

This is for other vector stores. Lensemble's own index keeps float32 vectors; its kinds `sq8` and
`binary` search with 8 bits or one bit, and then compute the scores from the float32 vectors.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError

# The names are those of Cohere's and Voyage's APIs.
OutputDtype = Literal["float", "int8", "ubinary"]

_INT8_MAX = 127


def quantize(vectors: NDArray[np.float32], output_dtype: OutputDtype) -> NDArray[Any]:
    """Returns vectors with components of another type.

    Args:
        vectors: (..., D) float32.
        output_dtype: `float` returns the vectors unchanged. `int8` returns (..., D) int8: each
            vector is scaled so that its largest component is 127 or -127, which keeps cosines up to
            rounding. `ubinary` returns (..., ceil(D / 8)) uint8: one bit for each component, 1 if
            it is above 0; the first component is in the highest bit.

    Raises:
        InvalidInputError: There is no such dtype.
    """
    if output_dtype == "float":
        return vectors
    if output_dtype == "ubinary":
        return np.packbits(vectors > 0, axis=-1)
    if output_dtype == "int8":
        largest = np.abs(vectors).max(axis=-1, keepdims=True)
        scaled = vectors * (_INT8_MAX / np.where(largest > 0, largest, 1))
        return np.rint(scaled).astype(np.int8)
    raise InvalidInputError(
        f"{output_dtype!r}; expected one of {', '.join(get_args(OutputDtype))}",
        field="output_dtype",
    )
