"""Checks of ids, vectors and profiles before they reach an index."""

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.index_checks import check_id, check_vector

__all__ = ["check_id", "check_profile", "check_vector"]


def check_profile(index_name: str, index_hash: str, vectors_hash: str) -> None:
    """Checks that vectors can be compared with those of an index.

    Args:
        index_name: name of the index's profile.
        index_hash: hash of the index's profile.
        vectors_hash: hash of the profile of the vectors.

    Raises:
        InvalidInputError: The hashes differ.
    """
    if index_hash != vectors_hash:
        raise InvalidInputError(
            f"the index was built under profile {index_name!r} {index_hash}, and the vectors were "
            f"made under {vectors_hash}; they cannot be compared: use the checkpoint of the index, "
            "or build the index again with the checkpoint of the vectors",
            field="profile",
        )
