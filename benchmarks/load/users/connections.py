"""How users reach the server: gRPC, HTTP, the gateway. All of it yields to other greenlets.

Nothing here tries again: a second try would hide the first one's failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.load.users.connection import Connection, check, new_id
from benchmarks.load.users.gateway import GatewayConnection
from lensemble_client import Client, Item, calls
from lensemble_client.connection import address
from lensemble_client.transports.wire import Parameters, arrays, inputs, outputs, translated
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Record, Rows


class TritonConnection:
    """Triton, through the client that callers use.

    Args:
        client: Of the server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, action: str, items: Sequence[Item]) -> int:
        """See `Connection.ask`."""
        call = _call(action, items)
        rows = self._client.infer(call.model, call.rows, call.parameters, None)
        results = call.read(rows)
        check(action, results, len(items))
        return sum(_size(array) for array in rows.values())

    def close(self) -> None:
        """See `Connection.close`."""
        self._client.close()


class GreenHttpTransport:
    """A `Transport` over tritonclient's HTTP client, which is made for greenlets.

    That of `lensemble_client` has an event loop on a thread, which under Locust would be a greenlet
    among those that wait for it.

    Args:
        place: `host:port`.
        connections: At most; a request that finds none free waits for one.
        timeout_s: Seconds that an answer may take.
    """

    def __init__(self, place: str, connections: int, timeout_s: float) -> None:
        import tritonclient.http as triton

        self._triton, self._timeout_s = triton, timeout_s
        self._client = triton.InferenceServerClient(
            place, concurrency=connections, network_timeout=timeout_s, connection_timeout=timeout_s
        )

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `lensemble_client.transports.sync_transports.Transport.infer`."""
        try:
            result = self._client.infer(
                model.name,
                inputs(self._triton, model, rows),
                outputs=outputs(self._triton, model),
                parameters=dict(parameters),
            )
        except Exception as error:
            raise translated(error, self._timeout_s) from error
        return arrays(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `lensemble_client.transports.sync_transports.Transport.ready`."""
        return bool(self._client.is_model_ready(model))

    def version(self, timeout_s: float) -> str:
        """See `lensemble_client.transports.sync_transports.Transport.version`."""
        metadata = self._client.get_server_metadata()
        return f"{metadata['name']} {metadata['version']}"

    def close(self) -> None:
        """See `lensemble_client.transports.sync_transports.Transport.close`."""
        self._client.close()


def check_url(protocol: str, url: str) -> None:
    """Refuses the URL of another protocol.

    Args:
        protocol: `grpc`, `http` or `gateway`.
        url: Of the server.

    Raises:
        InvalidInputError: It is none of the protocol's.
    """
    scheme, _ = address(url)
    wanted = "grpc" if protocol == "grpc" else "http"
    if scheme != wanted:
        raise InvalidInputError(
            f"{url!r} is not for protocol {protocol!r}; expected {wanted}://host:port", field="url"
        )


def connect(protocol: str, url: str, connections: int, timeout_s: float) -> Connection:
    """A connection to a server.

    Args:
        protocol: `grpc`, `http` or `gateway`.
        url: Of the server.
        connections: Requests that it must be able to carry at a time.
        timeout_s: Seconds that an answer may take.
    """
    if protocol == "gateway":
        return GatewayConnection(url, connections, timeout_s)
    if protocol == "http":
        transport = GreenHttpTransport(address(url)[1], connections, timeout_s)
        return TritonConnection(Client(transport=transport, timeout_s=timeout_s))
    return TritonConnection(Client(url, timeout_s=timeout_s))


def _call(action: str, items: Sequence[Item]) -> calls.Call[Any]:
    if action == "embed":
        return calls.embed(items, None)
    if action == "search":
        return calls.search(items, calls.SearchOptions(), None)
    (item,) = items
    return calls.ingest(Record(new_id(), item))


def _size(array: np.ndarray[Any, Any]) -> int:
    return sum(map(len, array.flat)) if array.dtype == object else int(array.nbytes)
