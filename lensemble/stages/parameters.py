"""What stages do with request parameters: unknown names, deadlines, and the length of vectors."""

from __future__ import annotations

from lensemble.scheduling import deadline
from lensemble.vectors import Vector, cut_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.index_checks import check_unit_length, check_vector
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


def vectors_for_index(
    vectors: Vector,
    parameters: Parameters,
    *,
    index_dimension: int,
    profile_dimension: int,
) -> list[Vector | LensembleError]:
    """Checks the vectors of a request, and cuts full-length ones for an index of shorter ones.

    An index of shorter (Matryoshka) vectors takes full-length vectors, too, unless the request asks
    for a length itself. Vectors are checked before they are cut, because cutting gives them unit
    length.

    Args:
        vectors: (B, D) float32.
        parameters: parameters of the request.
        index_dimension: length of the index's vectors.
        profile_dimension: length of the profile's full vectors.

    Returns:
        For each row its vector (index_dimension,), float32, unit length; or an error if the vector
        has another length, a value that is not finite, or no unit length.
    """
    asked = whole_number(parameters, contract.DIMENSIONS)
    is_cut = asked is None and vectors.shape[1] == profile_dimension > index_dimension

    def checked(vector: Vector) -> Vector | LensembleError:
        try:
            check_vector(profile_dimension if is_cut else index_dimension, vector)
            check_unit_length(vector)
            if is_cut:
                (vector,) = cut_rows(vector[None], index_dimension)
                check_unit_length(vector)  # its first numbers may all have been zero
        except InvalidInputError as error:
            return error
        return vector

    return [checked(vector) for vector in vectors]
