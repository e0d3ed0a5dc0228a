"""Embedding and searching."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from typing import Any

from lensemble_client import calls
from lensemble_client.batches import TEXTS, batches
from lensemble_client.calls import Embedding, Hit, Looking, Measured
from lensemble_client.connection import IN_FLIGHT, Connection, map_batches, stream_batches
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Picture


class Searching(Connection):
    """Calls of `embed`, `search` and `faiss`."""

    def embed(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        timeout_s: float | None = None,
    ) -> Embedding:
        """Embeds one item: a text, one or several pictures, or both.

        Args:
            text: Text of the item.
            image: Encoded bytes, path, or Pillow image; or several of them.
            instruction: Replaces the profile's instruction.
            dimensions: Matryoshka length of the vector; the profile's full one if None.
            embedder: Which one, of `contract.EMBEDDERS`; the server must have been started with it.
            timeout_s: Seconds for this call.

        Returns:
            The vector (D,), float32, unit length.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        item = Item.of(text, image, instruction)
        return self.run(calls.embed([item], dimensions, embedder), timeout_s)[0]

    def embed_many(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        concurrency: int = IN_FLIGHT,
        batch_size: int = TEXTS,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[Embedding | LensembleError]:
        """Embeds any number of items: N in, N out, in the same order.

        Texts share requests; items with pictures have one each, and the server joins them. One
        item's error takes that item's place in the result and leaves the others alone.

        Args:
            items: What to embed; read as it is worked on, so it may be a generator.
            dimensions: Matryoshka length of the vectors; the profile's full one if None.
            embedder: As in `embed`.
            concurrency: Requests under way at a time.
            batch_size: Texts in one request, 1 to `contract.MAX_BATCH_SIZE`.
            timeout_s: Seconds for each request.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item its vector (D,) or its error.
        """
        return map_batches(
            batches(items, batch_size),
            lambda batch: self._run_items(
                batch, lambda some: calls.embed(some, dimensions, embedder), timeout_s
            ),
            label="embed",
            total=len(items) if isinstance(items, Sized) else None,
            in_flight=concurrency,
            progress=progress,
        )

    def embed_stream(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        concurrency: int = IN_FLIGHT,
        batch_size: int = TEXTS,
        timeout_s: float | None = None,
    ) -> Generator[Measured[Embedding] | LensembleError]:
        """Embeds items without an end: results come, in order, while later items are read.

        Memory does not grow with their number: at most `2 * concurrency` requests are held, and
        the results that wait for an earlier item.

        Args:
            items: As in `embed_many`; read when results are asked for.
            dimensions: As in `embed_many`.
            embedder: As in `embed`.
            concurrency: As in `embed_many`.
            batch_size: As in `embed_many`.
            timeout_s: Seconds for each request.

        Returns:
            For each item its vector (D,) with what it took, and the profile that it was made under;
            or its error.
        """
        return stream_batches(
            batches(items, batch_size),
            lambda batch: self._run_items(
                batch,
                lambda some: calls.measured(calls.embed(some, dimensions, embedder)),
                timeout_s,
            ),
            concurrency,
        )

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
        looking = Looking(top_k, filter, exclude, min_score)
        return self.run(calls.search([item], looking, dimensions), timeout_s)[0]

    def search_many(
        self,
        items: Iterable[Item],
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        dimensions: int | None = None,
        concurrency: int = IN_FLIGHT,
        batch_size: int = TEXTS,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[list[Hit] | LensembleError]:
        """Searches for any number of items: N in, N out, in the same order.

        Args:
            items: What to search for; read as it is worked on, so it may be a generator.
            top_k: As in `search`.
            filter: As in `search`.
            exclude: As in `search`.
            min_score: As in `search`.
            dimensions: As in `search`.
            concurrency: As in `embed_many`.
            batch_size: As in `embed_many`.
            timeout_s: Seconds for each request.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item its hits, nearest first, or its error.
        """
        looking = Looking(top_k, filter, exclude, min_score)
        return map_batches(
            batches(items, batch_size),
            lambda batch: self._run_items(
                batch, lambda some: calls.search(some, looking, dimensions), timeout_s
            ),
            label="search",
            total=len(items) if isinstance(items, Sized) else None,
            in_flight=concurrency,
            progress=progress,
        )

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
        looking = Looking(top_k, filter, exclude, min_score)
        return self.run(calls.search_vector(vector, looking, profile), timeout_s)[0]

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
        looking = Looking(top_k, filter, exclude, min_score)
        return self.run(calls.more_like(id, looking), timeout_s)[0]
