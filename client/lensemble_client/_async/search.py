"""The calls that embed items and search for their neighbours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lensemble_client import calls
from lensemble_client._async.base import AsyncBaseClient
from lensemble_client.batches import TEXTS_PER_REQUEST, batches
from lensemble_client.calls import SearchOptions
from lensemble_client.concurrency.tasks import stream_batches
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_client.results import Embedding, Hits, Measured
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Picture


class AsyncSearchCalls(AsyncBaseClient):
    """Calls of the models `embed`, `search` and `faiss`."""

    async def embed(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | Iterator[Picture] | None = None,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        timeout_s: float | None = None,
    ) -> Embedding:
        """Embeds one item: a text, one or several pictures, or both.

        Args:
            text: Text of the item.
            image: A picture or several: encoded bytes, a path, an open file, a data URL, a Pillow
                image, or an array (H, W, 3) of uint8.
            instruction: Replaces the profile's instruction.
            dimensions: Matryoshka length of the vector; None takes the profile's full length.
            embedder: Name of the embedder, a key of `contract.EMBEDDERS`; the server must have been
                started with it.
            timeout_s: Seconds for this call.

        Returns:
            The vector (D,), float32, unit length.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        item = Item.of(text, image, instruction)
        (vector,) = await self.run(calls.embed([item], dimensions, embedder), timeout_s)
        return vector

    async def embed_many(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = TEXTS_PER_REQUEST,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[Embedding | LensembleError]:
        """Embeds any number of items: N items give N results, in the same order.

        Texts share requests. An item with pictures has a request of its own, and the server batches
        those. If an item fails, its error takes its place in the result; the others are not
        affected.

        Args:
            items: Items to embed; they are read while requests run, so this may be a generator.
            dimensions: Matryoshka length of the vectors; None takes the profile's full length.
            embedder: As in `embed`.
            concurrency: Number of requests that run at the same time.
            batch_size: Texts in one request, 1 to `contract.MAX_BATCH_SIZE`.
            timeout_s: Seconds for each batch of items, with all its retries. Items that are sent
                again alone have this time each.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item its vector (D,) or its error.
        """
        return await self.run_many(
            items,
            lambda batch: calls.embed(batch, dimensions, embedder),
            concurrency=concurrency,
            batch_size=batch_size,
            timeout_s=timeout_s,
            label="embed",
            progress=progress,
        )

    def embed_stream(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = TEXTS_PER_REQUEST,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Measured[Embedding] | LensembleError]:
        """Embeds an unlimited number of items, and yields their results in order.

        Items are read only as the caller takes results from the generator, so memory does not grow
        with the number of items: at most `2 * concurrency` requests are in memory, together with
        the results that wait for an earlier item. After the generator is closed, no further request
        starts. `AsyncClient` cancels the requests that run, and `Client` waits for them.

        Args:
            items: Items to embed, in any number.
            dimensions: As in `embed_many`.
            embedder: As in `embed`.
            concurrency: As in `embed_many`.
            batch_size: As in `embed_many`.
            timeout_s: Seconds for each batch of items, with all its retries. Items that are sent
                again alone have this time each.

        Returns:
            For each item its error, or its vector (D,) with its cost and the profile under which it
            was made.
        """
        return stream_batches(
            batches(items, batch_size),
            lambda batch: self._run_batch(
                batch,
                lambda batch_items: calls.measured(calls.embed(batch_items, dimensions, embedder)),
                timeout_s,
            ),
            concurrency,
        )

    async def search(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | Iterator[Picture] | None = None,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> Hits:
        """Embeds one item and finds the nearest stored items, in one request.

        Args:
            text: Text of the query.
            image: A picture or several: encoded bytes, a path, an open file, a data URL, a Pillow
                image, or an array (H, W, 3) of uint8.
            top_k: Largest number of hits, 1 to `contract.MAX_TOP_K`.
            filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
            exclude: Ids of items that must not be among the hits; any collection of strings.
            min_score: Smallest score of a hit; None sets no limit.
            instruction: Replaces the profile's instruction.
            dimensions: Length that the index's vectors must have; if they have another, the search
                is refused. None accepts any length.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first, and warnings about the filter.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        item = Item.of(text, image, instruction)
        options = SearchOptions(top_k, filter, exclude, min_score)
        (hits,) = await self.run(calls.search([item], options, dimensions), timeout_s)
        return hits

    async def search_many(
        self,
        items: Iterable[Item],
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        dimensions: int | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = TEXTS_PER_REQUEST,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[Hits | LensembleError]:
        """Searches for any number of items: N items give N results, in the same order.

        Args:
            items: Queries; they are read while requests run, so this may be a generator.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            dimensions: As in `search`.
            concurrency: As in `embed_many`.
            batch_size: As in `embed_many`.
            timeout_s: Seconds for each batch of items, with all its retries. Items that are sent
                again alone have this time each.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item its hits, nearest first, or its error.
        """
        options = SearchOptions(top_k, filter, exclude, min_score)
        return await self.run_many(
            items,
            lambda batch: calls.search(batch, options, dimensions),
            concurrency=concurrency,
            batch_size=batch_size,
            timeout_s=timeout_s,
            label="search",
            progress=progress,
        )

    async def search_vector(
        self,
        vector: Sequence[float] | Embedding,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        profile: str | None = None,
        timeout_s: float | None = None,
    ) -> Hits:
        """Finds the stored items nearest to a vector that the caller already has.

        Args:
            vector: (D,) unit length.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            profile: Hash of the profile under which the vector was made; the search is refused if
                the server has another profile.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first, and warnings about the filter.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        options = SearchOptions(top_k, filter, exclude, min_score)
        (hits,) = await self.run(calls.search_vector(vector, options, profile), timeout_s)
        return hits

    async def more_like(
        self,
        id: str,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        timeout_s: float | None = None,
    ) -> Hits:
        """Finds the stored items nearest to a stored item, which is not among them itself.

        Args:
            id: Id of the stored item.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            timeout_s: Seconds for this call.

        Returns:
            Up to `top_k` hits, nearest first, and warnings about the filter.

        Raises:
            NotFoundError: There is no such item.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        options = SearchOptions(top_k, filter, exclude, min_score)
        (hits,) = await self.run(calls.more_like(id, options), timeout_s)
        return hits
