"""The client: embed, search and store, over gRPC or HTTP, alike."""

from __future__ import annotations

from dataclasses import dataclass

from lensemble_client import contract
from lensemble_client.calls import Embedding, Hit, Stored
from lensemble_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from lensemble_client.errors import LensembleError
from lensemble_client.searching import Searching
from lensemble_client.storing import Storing

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "Client",
    "Embedding",
    "Hit",
    "Status",
    "Stored",
]


@dataclass(frozen=True, slots=True)
class Status:
    """What a server says of itself.

    Attributes:
        server: Its name and version.
        models: Model name -> whether it can serve now.
    """

    server: str
    models: dict[str, bool]


class Client(Searching, Storing):
    """Talks to one Lensemble server. Safe to use from several threads; a context manager.

    `searching` has what it can ask, `storing` what it can write, `connection` how it is made.
    """

    def status(self, timeout_s: float | None = None) -> Status:
        """Asks the server for its version and which models can serve now.

        Raises:
            NotReadyError: The server cannot be reached.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return Status(
            self._transport.version(timeout_s),
            {name: self._transport.ready(name, timeout_s) for name in contract.MODELS},
        )

    def embedders(self, timeout_s: float | None = None) -> tuple[str, ...]:
        """The embedders that can serve now, of `contract.EMBEDDERS`.

        Raises:
            NotReadyError: The server cannot be reached.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return tuple(
            name
            for name, model in contract.EMBEDDERS.items()
            if self._transport.ready(model.name, timeout_s)
        )

    def health(self, timeout_s: float | None = None) -> bool:
        """Whether the server can embed now; False if it cannot be reached."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return self._transport.ready(contract.EMBED.name, timeout_s)
        except LensembleError:
            return False
