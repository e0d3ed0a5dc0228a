"""How users reach the server: gRPC, HTTP, the gateway. All of it yields to other greenlets.

Nothing here tries again: a second try would hide the first one's failure.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np

from lensemble_client import Client, Item, calls, contract
from lensemble_client.connection import address
from lensemble_client.errors import InternalError
from lensemble_client.items import Record, Rows
from lensemble_client.wire import Parameters, Sent, arrays, inputs, outputs, translated

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


class HttpError(Exception):
    """The gateway answered with another status than 200.

    Attributes:
        name: Class of the error for tables, such as `HTTP 429`.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200].decode(errors='replace')}")
        self.name = f"HTTP {status}"


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
        _check(action, results, len(items))
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
        self, model: contract.Model, rows: Sent, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `lensemble_client.transport.Transport.infer`."""
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
        """See `lensemble_client.transport.Transport.ready`."""
        return bool(self._client.is_model_ready(model))

    def version(self, timeout_s: float) -> str:
        """See `lensemble_client.transport.Transport.version`."""
        metadata = self._client.get_server_metadata()
        return f"{metadata['name']} {metadata['version']}"

    def close(self) -> None:
        """See `lensemble_client.transport.Transport.close`."""
        self._client.close()


class GatewayConnection:
    """The gateway's JSON, over HTTP connections that are kept.

    Args:
        url: `http://host:port`.
        connections: As of `GreenHttpTransport`.
        timeout_s: Seconds that an answer may take.
    """

    def __init__(self, url: str, connections: int, timeout_s: float) -> None:
        from geventhttpclient import HTTPClient

        self._http = HTTPClient.from_url(
            url, concurrency=connections, network_timeout=timeout_s, connection_timeout=timeout_s
        )

    def ask(self, action: str, items: Sequence[Item]) -> int:
        """See `Connection.ask`."""
        path, body = _request(action, items)
        try:
            answer = self._http.post(path, json.dumps(body), {"Content-Type": "application/json"})
            status, content = answer.status_code, bytes(answer.read())
        except Exception as error:
            raise translated(error, self._http.network_timeout) from error
        if status != 200:
            raise HttpError(status, content)
        _check(action, _results(action, json.loads(content)), len(items))
        return len(content)

    def close(self) -> None:
        """See `Connection.close`."""
        self._http.close()


def connect(protocol: str, url: str, connections: int, timeout_s: float) -> Connection:
    """A connection to a server.

    Args:
        protocol: `grpc`, `http` or `gateway`.
        url: Of the server.
        connections: Requests that it must be able to carry at a time.
        timeout_s: Seconds that an answer may take.

    Raises:
        InvalidInputError: The URL is not one of the protocol's.
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
        return calls.search(items, calls.Looking(), None)
    (item,) = items
    return calls.ingest(Record(_new_id(), item))


def _new_id() -> str:
    """An id that no process of any run uses."""
    return f"load/{_RUN}/{next(_NUMBERS)}"


def _request(action: str, items: Sequence[Item]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request to the gateway."""
    fused = [_fused(item) for item in items]
    if action == "embed":
        return "/v1/embeddings", {"input": fused, "encoding_format": "base64"}
    if action == "search":
        return "/v1/search", {"input": fused}
    return "/v1/items", {"items": [{"id": _new_id(), **one} for one in fused]}


def _fused(item: Item) -> dict[str, Any]:
    images = [f"data:;base64,{base64.b64encode(image).decode()}" for image in item.images]
    said: dict[str, Any] = {"text": item.text} if item.text else {}
    return {**said, "image": images} if images else said


def _results(action: str, answer: Any) -> list[Any]:
    """Vectors, hits or sequence numbers in an answer of the gateway."""
    if action == "embed":
        return [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    return [one.get("hits") or one.get("sequence") for one in answer["data"]]


def _check(action: str, results: Sequence[Any], wanted: int) -> None:
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


def _size(array: np.ndarray[Any, Any]) -> int:
    return sum(map(len, array.flat)) if array.dtype == object else int(array.nbytes)
