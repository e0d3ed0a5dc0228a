"""What every connection shares: its shape, fresh ids, and whether an answer can be right."""

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
_UNIT = 1e-3
"""How far a vector's length may be from 1."""


class Connection(Protocol):
    """Sends one request at a time per caller, for any number of greenlets."""

    def ask(self, action: str, items: Sequence[Item]) -> int:
        """Sends one request and checks what comes back.

        Args:
            action: `embed`, `search` or `ingest`; that last one takes one item.
            items: What to send.

        Returns:
            Bytes of the answer.

        Raises:
            LensembleError: Any class of the tree in `errors`; `InternalError` of an answer that
                cannot be right.
            HttpError: The gateway said no.
        """

    def close(self) -> None:
        """Closes the connections."""


def new_id() -> str:
    """An id that no process of any run uses."""
    return f"load/{_RUN}/{next(_NUMBERS)}"


def check(action: str, results: Sequence[Any], wanted: int) -> None:
    """Refuses what a server that is broken under load might say with status 200.

    Raises:
        InternalError: It cannot be right.
    """
    if len(results) != wanted:
        raise InternalError(f"{len(results)} results for {wanted} items")
    for result in results:
        if action == "embed":
            length = float(np.linalg.norm(result))
            if not abs(length - 1) < _UNIT:
                raise InternalError(f"a vector of length {length}; expected 1")
        elif not result:
            raise InternalError(f"{action} gave {result!r}")
