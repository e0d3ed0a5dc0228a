"""Connections to Triton over gRPC and HTTP, which yield to other greenlets; and `connect`.

No request is retried: a retry would hide the failure of the first attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.load.users.connection import Connection, check_results, new_id
from benchmarks.load.users.gateway_connection import GatewayConnection
from lensemble_client import Client, Item, calls
from lensemble_client.connection import split_url
from lensemble_client.transports.wire import (
    Parameters,
    answer_rows,
    request_inputs,
    request_outputs,
    translate_error,
)
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Record, Rows


class TritonConnection:
    """A connection to Triton through the client that callers use.

    Args:
        client: Client of the server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, action: str, items: Sequence[Item]) -> int:
        """See `Connection.send`."""
        call = _call_for(action, items)
        rows = self._client.infer(call.model, call.rows, call.parameters, None)
        results = call.read(rows)
        check_results(action, results, len(items))
        return sum(_bytes_of(array) for array in rows.values())

    def close(self) -> None:
        """See `Connection.close`."""
        self._client.close()


class GreenHttpTransport:
    """A `Transport` over tritonclient's HTTP client, which is made for greenlets.

    The HTTP transport of `lensemble_client` runs an event loop on a thread. Locust turns threads
    into greenlets, so the loop would be one of the greenlets that wait for it.

    Args:
        place: Address of the server, `host:port`.
        connections: Largest number of connections; a request that finds none free waits.
        timeout_s: Largest number of seconds until the answer.
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
                request_inputs(self._triton, model, rows),
                outputs=request_outputs(self._triton, model),
                parameters=dict(parameters),
            )
        except Exception as error:
            raise translate_error(error, self._timeout_s) from error
        return answer_rows(result, model.outputs)

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
    """Rejects a URL that does not belong to a protocol.

    Args:
        protocol: `grpc`, `http` or `gateway`.
        url: URL of the server.

    Raises:
        InvalidInputError: The URL has the scheme of another protocol.
    """
    scheme, _ = split_url(url)
    expected = "grpc" if protocol == "grpc" else "http"
    if scheme != expected:
        raise InvalidInputError(
            f"{url!r} is not for protocol {protocol!r}; expected {expected}://host:port",
            field="url",
        )


def connect(protocol: str, url: str, connections: int, timeout_s: float) -> Connection:
    """Connects to a server.

    Args:
        protocol: `grpc`, `http` or `gateway`.
        url: URL of the server.
        connections: Number of concurrent requests.
        timeout_s: Largest number of seconds until an answer.
    """
    if protocol == "gateway":
        return GatewayConnection(url, connections, timeout_s)
    if protocol == "http":
        transport = GreenHttpTransport(split_url(url)[1], connections, timeout_s)
        return TritonConnection(Client(transport=transport, timeout_s=timeout_s))
    return TritonConnection(Client(url, timeout_s=timeout_s))


def _call_for(action: str, items: Sequence[Item]) -> calls.Call[Any]:
    if action == "embed":
        return calls.embed(items, None)
    if action == "search":
        return calls.search(items, calls.SearchOptions(), None)
    (item,) = items
    return calls.ingest(Record(new_id(), item))


def _bytes_of(array: np.ndarray[Any, Any]) -> int:
    return sum(map(len, array.flat)) if array.dtype == object else int(array.nbytes)
