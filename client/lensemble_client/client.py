"""The client: embed and search, over gRPC or HTTP, alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client import contract
from lensemble_client.errors import InvalidInputError, LensembleError
from lensemble_client.items import Item, Picture, Rows, to_rows
from lensemble_client.transport import GrpcTransport, HttpTransport, Transport

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0

Embedding = NDArray[np.float32]
"""One vector (D,), float32, unit length."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One item of the corpus that a search found.

    Attributes:
        id: The id under which the caller stored it.
        score: Inner product of unit vectors, -1 to 1; bigger is nearer.
        document: The JSON document stored with it.
    """

    id: str
    score: float
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """What a server says of itself.

    Attributes:
        server: Its name and version.
        models: Model name -> whether it can serve now.
    """

    server: str
    models: dict[str, bool]


class Client:
    """Talks to one Lensemble server. Safe to use from several threads; a context manager.

    Args:
        url: `grpc://host:port` or `http://host:port`.
        timeout_s: Seconds that a call may take, unless the call says otherwise.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL's scheme is neither `grpc` nor `http`, or it names no port.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport if transport is not None else _transport(url)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def embed(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> Embedding:
        """Embeds one item: a text, one or several pictures, or both.

        Args:
            text: Text of the item.
            image: Encoded bytes, path, or Pillow image; or several of them.
            instruction: Replaces the profile's instruction.
            dimensions: Matryoshka length of the vector; the profile's full one if None.
            timeout_s: Seconds for this call.

        Returns:
            The vector (D,), float32, unit length.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        item = Item.of(text, image, instruction)
        return self._embed(item, _parameters(dimensions=dimensions), timeout_s)

    def embed_many(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        concurrency: int = 16,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[Embedding | LensembleError]:
        """Embeds many items, several calls at a time; the server batches them.

        One item's error takes that item's place in the result and leaves the others alone.

        Args:
            items: What to embed.
            dimensions: Matryoshka length of the vectors; the profile's full one if None.
            concurrency: Calls under way at a time.
            timeout_s: Seconds for each call.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item, in order, its vector (D,) or its error.
        """
        items = list(items)
        parameters = _parameters(dimensions=dimensions)

        def one(item: Item) -> Embedding | LensembleError:
            try:
                return self._embed(item, parameters, timeout_s)
            except LensembleError as error:
                return error

        with ThreadPoolExecutor(max(1, min(concurrency, len(items)))) as pool:
            results = pool.map(one, items)
            return list(tqdm(results, "embed", len(items), unit="item", disable=not progress))

    def search(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        instruction: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Embeds one item and finds the nearest items of the corpus, in one call.

        Args:
            text: Text of the query.
            image: Encoded bytes, path, or Pillow image; or several of them.
            top_k: How many items at most, 1 to `contract.MAX_TOP_K`.
            instruction: Replaces the profile's instruction.
            dimensions: Refuse an index of another length; None takes the index's.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        item = Item.of(text, image, instruction)
        parameters = _parameters(top_k=top_k, dimensions=dimensions)
        answer = self._infer(contract.SEARCH, [item], parameters, timeout_s)
        columns = (answer[tensor.name][0].tolist() for tensor in contract.HITS)
        return [
            Hit(id_.decode(), score, json.loads(document))
            for id_, score, document in zip(*columns, strict=True)
        ]

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

    def _embed(
        self, item: Item, parameters: dict[str, str | int | bool], timeout_s: float | None
    ) -> Embedding:
        answer = self._infer(contract.EMBED, [item], parameters, timeout_s)
        vector: Embedding = answer[contract.EMBEDDING.name][0]
        return vector

    def _infer(
        self,
        model: contract.Model,
        items: list[Item],
        parameters: dict[str, str | int | bool],
        timeout_s: float | None,
    ) -> Rows:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return self._transport.infer(model, to_rows(items), parameters, timeout_s)


def _parameters(**values: int | None) -> dict[str, str | int | bool]:
    return {name: value for name, value in values.items() if value is not None}


def _transport(url: str) -> Transport:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # not a number, or too large
        port = None
    if parts.scheme not in ("grpc", "http") or not port:
        raise InvalidInputError(
            f"cannot connect to {url!r}; expected grpc://host:port or http://host:port",
            field="url",
        )
    return (GrpcTransport if parts.scheme == "grpc" else HttpTransport)(parts.netloc)
