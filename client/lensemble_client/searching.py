"""Embedding and searching."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client import contract
from lensemble_client.connection import Connection, given, json_text
from lensemble_client.errors import LensembleError
from lensemble_client.items import Item, Picture, Rows, to_rows
from lensemble_client.transport import Parameters

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


class Searching(Connection):
    """Calls of `embed`, `search` and `faiss`."""

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
        return self._embed(item, given(dimensions=dimensions), timeout_s)

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
        parameters = given(dimensions=dimensions)

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
        filter: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Embeds one item and finds the nearest items of the corpus, in one call.

        Args:
            text: Text of the query.
            image: Encoded bytes, path, or Pillow image; or several of them.
            top_k: How many items at most, 1 to `contract.MAX_TOP_K`.
            filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
            exclude: Ids that are not to be found.
            min_score: Only items with this score or more.
            instruction: Replaces the profile's instruction.
            dimensions: Refuse an index of another length; None takes the index's.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        item = Item.of(text, image, instruction)
        parameters = _searching(top_k, filter, exclude, min_score, dimensions=dimensions)
        answer = self.infer(contract.SEARCH, to_rows([item]), parameters, timeout_s)
        return _hits(answer)

    def search_vector(
        self,
        vector: Sequence[float] | Embedding,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        profile: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Finds the nearest items to a vector that was made before.

        Args:
            vector: (D,) unit length.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            profile: Hash of the profile that it was made under; another one than the server's is
                refused.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        rows = {contract.EMBEDDING.name: np.array([vector], np.float32)}
        parameters = _searching(top_k, filter, exclude, min_score, profile=profile)
        return _hits(self.infer(contract.FAISS, rows, parameters, timeout_s))

    def more_like(
        self,
        id: str,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Finds the nearest items to a stored one, without that one itself.

        Args:
            id: Of the stored item.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first.

        Raises:
            NotFoundError: There is no such item.
            LensembleError: Any class of the tree in `errors`.
        """
        rows = {contract.EMBEDDING.name: np.empty((1, 0), np.float32)}
        parameters = _searching(top_k, filter, exclude, min_score, like=id)
        return _hits(self.infer(contract.FAISS, rows, parameters, timeout_s))

    def _embed(self, item: Item, parameters: Parameters, timeout_s: float | None) -> Embedding:
        answer = self.infer(contract.EMBED, to_rows([item]), parameters, timeout_s)
        vector: Embedding = answer[contract.EMBEDDING.name][0]
        return vector


def _searching(
    top_k: int,
    filter_: Mapping[str, Any] | None,
    exclude: Sequence[str],
    min_score: float | None,
    **more: str | int | None,
) -> Parameters:
    return given(
        top_k=top_k,
        filter=json_text(filter_, contract.FILTER) if filter_ else None,
        exclude=json_text(list(exclude), contract.EXCLUDE) if exclude else None,
        min_score=None if min_score is None else repr(float(min_score)),
        **more,
    )


def _hits(answer: Rows) -> list[Hit]:
    """Hits of the one row that was asked for."""
    columns = (answer[tensor.name][0].tolist() for tensor in contract.HITS)
    return [
        Hit(id_.decode(), score, json.loads(document))
        for id_, score, document in zip(*columns, strict=True)
        if id_ != contract.NO_ID
    ]
