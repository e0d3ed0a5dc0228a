"""The interface of all connections, new ids, and the check of answers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np

from lensemble_client import Item
from lensemble_contract.errors import InternalError

_RUN = uuid.uuid4().hex[:12]
_NUMBERS = count()
# Largest deviation of a vector's length from 1.
_UNIT_TOLERANCE = 1e-3


class Connection(Protocol):
    """A connection to the server, shared by any number of greenlets."""

    def send(self, action: str, items: Sequence[Item]) -> int:
        """Sends one request and checks the answer.

        Args:
            action: `embed`, `search` or `ingest`; `ingest` takes one item.
            items: Items to send.

        Returns:
            Number of bytes of the answer.

        Raises:
            LensembleError: The request failed. It is an `InternalError` if the answer cannot be
                right.
            HttpError: The gateway answered with a status other than 200.
        """

    def close(self) -> None:
        """Closes the connection."""


def new_id() -> str:
    """Returns an id that no process of any run has used."""
    return f"load/{_RUN}/{next(_NUMBERS)}"


def check_results(action: str, results: Sequence[Any], expected: int) -> None:
    """Rejects wrong results that a server which breaks under load might return as a success.

    Args:
        action: `embed`, `search` or `ingest`.
        results: Vectors, hits or sequence numbers, one entry per item.
        expected: Number of items that were sent.

    Raises:
        InternalError: The number of results is wrong, or a result cannot be right.
    """
    if len(results) != expected:
        raise InternalError(f"{len(results)} results for {expected} items")
    for result in results:
        if action == "embed":
            length = float(np.linalg.norm(result))
            if not abs(length - 1) < _UNIT_TOLERANCE:
                raise InternalError(f"a vector of length {length}; expected 1")
        elif not result:
            raise InternalError(f"{action} returned {result!r}")
