"""Users of the gateway: its JSON over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.load.users.connection import check, new_id
from lensemble_client import Item
from lensemble_client.transports.wire import translated


class HttpError(Exception):
    """The gateway answered with another status than 200.

    Attributes:
        name: Class of the error for tables, such as `HTTP 429`.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200].decode(errors='replace')}")
        self.name = f"HTTP {status}"


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
        check(action, _results(action, json.loads(content)), len(items))
        return len(content)

    def close(self) -> None:
        """See `Connection.close`."""
        self._http.close()


def _request(action: str, items: Sequence[Item]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request to the gateway."""
    fused = [_fused(item) for item in items]
    if action == "embed":
        return "/v1/embeddings", {"input": fused, "encoding_format": "base64"}
    if action == "search":
        return "/v1/search", {"input": fused}
    return "/v1/items", {"items": [{"id": new_id(), **one} for one in fused]}


def _fused(item: Item) -> dict[str, Any]:
    images = [f"data:;base64,{base64.b64encode(image).decode()}" for image in item.images]
    said: dict[str, Any] = {"text": item.text} if item.text else {}
    return {**said, "image": images} if images else said


def _results(action: str, answer: Any) -> list[Any]:
    """Vectors, hits or sequence numbers in an answer of the gateway."""
    if action == "embed":
        return [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    return [one.get("hits") or one.get("sequence") for one in answer["data"]]
