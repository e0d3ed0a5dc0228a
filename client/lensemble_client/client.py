"""The client: embed, search and store, over gRPC or HTTP, alike."""

from __future__ import annotations

from dataclasses import dataclass

from lensemble_client import calls
from lensemble_client.calls import Embedding, Hit, Stored
from lensemble_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from lensemble_client.searching import Searching
from lensemble_client.storing import Storing
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError

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

        Triton goes on to call a model ready whose process has died, so each is asked by itself.

        Raises:
            NotReadyError: The server cannot be reached.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        version = self._transport.version(timeout_s)
        return Status(version, self._ready(list(contract.MODELS), timeout_s))

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
        """Whether the server can embed now: its models have done a little work within the timeout.

        False if it cannot be reached, or is too busy to answer in time.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return all(self._ready([contract.EMBED.name], timeout_s).values())
        except LensembleError:
            return False

    def _ready(self, names: list[str], timeout_s: float) -> dict[str, bool]:
        ready = {name: self._transport.ready(name, timeout_s) for name in names}
        processes = {one for name in names for one in calls.processes_of(name) if ready[name]}
        there = {one for one in processes if self._answers(one, timeout_s)}
        return {name: ready[name] and there.issuperset(calls.processes_of(name)) for name in names}

    def _answers(self, name: str, timeout_s: float) -> bool:
        call = calls.ping(name)
        try:
            self._transport.infer(call.model, call.rows, call.parameters, timeout_s)
        except LensembleError as error:
            return calls.is_answer(error)
        return True
