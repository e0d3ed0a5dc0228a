"""Connections to the gateway: JSON over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.load.users.connection import check_results, new_id
from lensemble_client import Item
from lensemble_client.transports.wire import translate_error


class HttpError(Exception):
    """The gateway answered with a status other than 200.

    Attributes:
        name: Class of the error in tables, such as `HTTP 429`.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200].decode(errors='replace')}")
        self.name = f"HTTP {status}"


class GatewayConnection:
    """Persistent HTTP connections to the gateway.

    Args:
        url: URL of the gateway, `http://host:port`.
        connections: Largest number of connections; a request that finds none free waits.
        timeout_s: Largest number of seconds until an answer.
    """

    def __init__(self, url: str, connections: int, timeout_s: float) -> None:
        from geventhttpclient import HTTPClient

        self._http = HTTPClient.from_url(
            url, concurrency=connections, network_timeout=timeout_s, connection_timeout=timeout_s
        )

    def send(self, action: str, items: Sequence[Item]) -> int:
        """See `Connection.send`."""
        path, body = _request(action, items)
        try:
            answer = self._http.post(path, json.dumps(body), {"Content-Type": "application/json"})
            status, content = answer.status_code, bytes(answer.read())
        except Exception as error:
            raise translate_error(error, self._http.network_timeout) from error
        if status != 200:
            raise HttpError(status, content)
        check_results(action, _results(action, json.loads(content)), len(items))
        return len(content)

    def close(self) -> None:
        """See `Connection.close`."""
        self._http.close()


def _request(action: str, items: Sequence[Item]) -> tuple[str, dict[str, Any]]:
    """Returns the path and the body of a request to the gateway."""
    inputs = [_input(item) for item in items]
    if action == "embed":
        return "/v1/embeddings", {"input": inputs, "encoding_format": "base64"}
    if action == "search":
        return "/v1/search", {"input": inputs}
    return "/v1/items", {"items": [{"id": new_id(), **content} for content in inputs]}


def _input(item: Item) -> dict[str, Any]:
    images = [f"data:;base64,{base64.b64encode(image).decode()}" for image in item.images]
    content: dict[str, Any] = {"text": item.text} if item.text else {}
    return {**content, "image": images} if images else content


def _results(action: str, answer: Any) -> list[Any]:
    """Returns the vectors, hits or sequence numbers in an answer of the gateway."""
    if action == "embed":
        encoded = [entry["embedding"] for entry in answer["data"]]
        return [np.frombuffer(base64.b64decode(vector), "<f4") for vector in encoded]
    return [entry.get("hits") or entry.get("sequence") for entry in answer["data"]]
