"""What stages do with request parameters: unknown names, deadlines, and the length of vectors."""

from __future__ import annotations

from lensemble.scheduling import deadline
from lensemble.vectors import Vector, cut_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters, number, whole_number

# Beginnings of Triton's own parameters, and of headers that Triton may be told to forward.
_FOREIGN_PREFIXES = ("triton_", "binary_data", "sequence_", "x-", "traceparent")


def check_parameters(parameters: Parameters) -> None:
    """Refuses parameters that no model reads, because a misspelt one would have no effect.

    Raises:
        InvalidInputError: A parameter is neither known nor one of Triton or a proxy.
    """
    for name in parameters:
        if name not in contract.PARAMETERS and not name.lower().startswith(_FOREIGN_PREFIXES):
            raise InvalidInputError(
                f"no such request parameter; the parameters are {', '.join(contract.PARAMETERS)}",
                field=name,
            )


def deadline_of(rows: Rows, parameters: Parameters) -> int:
    """The deadline of a request: what an earlier model passed on, or else now plus the timeout.

    Args:
        rows: input tensors of the request.
        parameters: parameters of the request.

    Returns:
        A deadline as in `lensemble.scheduling.deadline`.

    Raises:
        InvalidInputError: The timeout is not a positive number.
    """
    passed_on = rows.get(contract.DEADLINE.name)
    if passed_on is not None:
        return int(passed_on.max(initial=deadline.NEVER))
    if contract.TIMEOUT_MS not in parameters:
        return deadline.NEVER
    return deadline.from_timeout(number(parameters, contract.TIMEOUT_MS, 0.0))


def cut_to_index(
    vectors: Vector,
    parameters: Parameters,
    *,
    index_dimension: int,
    profile_dimension: int,
) -> Vector:
    """Cuts full-length vectors to the length of an index of shorter (Matryoshka) vectors.

    Vectors of another length, and requests that ask for a length themselves, are left as they are.

    Args:
        vectors: (B, D) float32.
        parameters: parameters of the request.
        index_dimension: length of the index's vectors.
        profile_dimension: length of the profile's full vectors.

    Returns:
        (B, D) or (B, index_dimension) float32; cut vectors have unit length, except those that
        are zero or not finite: these stay as they are, and the index refuses them.
    """
    length = vectors.shape[1]
    asked = whole_number(parameters, contract.DIMENSIONS)
    if asked is not None or not length == profile_dimension > index_dimension:
        return vectors
    return cut_rows(vectors, index_dimension)
