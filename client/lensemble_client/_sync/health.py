# Generated from lensemble_client/_async/health.py by `make generate`. Edit that file instead.
"""The calls that ask a server for its version, its embedders, and whether it can serve."""

from __future__ import annotations

from lensemble_client import calls
from lensemble_client._sync.base import BaseClient
from lensemble_client.concurrency.threads import call_each
from lensemble_client.results import Status
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError


class HealthCalls(BaseClient):
    """Calls that ask about the server itself."""

    def status(self, timeout_s: float | None = None) -> Status:
        """Asks the server for its version and which models can serve now.

        Triton still reports a model as ready when its process has died. So every model process is
        also asked to do a little work.

        Args:
            timeout_s: Seconds for each request.

        Raises:
            NotReadyError: The server cannot be reached.
        """
        timeout_s = self._timeout(timeout_s)
        version = self._transport.version(timeout_s)
        return Status(version, self._ready(list(contract.MODELS), timeout_s))

    def embedders(self, timeout_s: float | None = None) -> tuple[str, ...]:
        """Asks which embedders the server has.

        Args:
            timeout_s: Seconds for each request.

        Returns:
            Their names, keys of `contract.EMBEDDERS`.

        Raises:
            NotReadyError: The server cannot be reached.
        """
        timeout_s = self._timeout(timeout_s)
        models = contract.EMBEDDERS
        ready = call_each(lambda name: self._transport.ready(models[name].name, timeout_s), models)
        return tuple(name for name, is_ready in zip(models, ready, strict=True) if is_ready)

    def health(self, timeout_s: float | None = None) -> bool:
        """Whether the server can embed now: its models do a little work within the timeout.

        Args:
            timeout_s: Seconds for each request.

        Returns:
            False if the server cannot be reached, or is too busy to answer in time.
        """
        timeout_s = self._timeout(timeout_s)
        try:
            ready = self._ready([contract.EMBED.name], timeout_s)
        except LensembleError:
            return False
        return all(ready.values())

    def _ready(self, names: list[str], timeout_s: float) -> dict[str, bool]:
        """Returns for each model whether it is loaded and all its processes answer."""
        answers = call_each(lambda name: self._transport.ready(name, timeout_s), names)
        ready = dict(zip(names, answers, strict=True))
        processes = sorted(
            {process for name in names if ready[name] for process in calls.processes_of(name)}
        )
        pings = call_each(lambda process: self._is_alive(process, timeout_s), processes)
        alive = {process for process, answer in zip(processes, pings, strict=True) if answer}
        return {name: ready[name] and alive.issuperset(calls.processes_of(name)) for name in names}

    def _is_alive(self, process: str, timeout_s: float) -> bool:
        call = calls.ping(process)
        try:
            self._transport.infer(call.model, call.rows, call.parameters, timeout_s)
        except LensembleError as error:
            return calls.proves_alive(error)
        return True
