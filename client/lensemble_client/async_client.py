"""The client for asyncio: the calls of `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble_client import calls
from lensemble_client.async_batches import map_batches, stream_batches
from lensemble_client.batches import TEXTS, Numbered, batches, one_by_one, one_each
from lensemble_client.calls import Call, Embedding, Hit, Looking, Measured, Stored
from lensemble_client.client import Status
from lensemble_client.connection import (
    DEFAULT_RETRY,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    IN_FLIGHT,
    address,
    certificates,
)
from lensemble_client.retry import Retry, Tries
from lensemble_client.transports.async_transports import (
    AsyncGrpcTransport,
    AsyncHttpTransport,
    AsyncTransport,
)
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError, NotFoundError
from lensemble_contract.items import Item, Picture, Record

T = TypeVar("T")
E = TypeVar("E")


class AsyncClient:
    """Talks to one Lensemble server, on one event loop; an asynchronous context manager.

    Every call may be cancelled: the server is told, and stops working on it where it can.

    Args:
        url: As of `Client`.
        timeout_s: As of `Client`.
        retry: As of `Client`.
        tls: As of `Client`.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: As of `Client`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = DEFAULT_RETRY,
        tls: Path | str | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._transport = transport or _transport(url, tls)
        self._timeout_s, self._retry = timeout_s, retry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def embed(
        self,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        timeout_s: float | None = None,
    ) -> Embedding:
        """See `Client.embed`."""
        item = Item.of(text, image, instruction)
        return (await self.run(calls.embed([item], dimensions, embedder), timeout_s))[0]

    async def embed_many(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        embedder: str = contract.NATIVE,
        concurrency: int = IN_FLIGHT,
        batch_size: int = TEXTS,
        timeout_s: float | None = None,
    ) -> list[Embedding | LensembleError]:
        """See `Client.embed_many`."""
        return await self.run_many(
            items,
            lambda some: calls.embed(some, dimensions, embedder),
            concurrency=concurrency,
            batch_size=batch_size,
            timeout_s=timeout_s,
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
    ) -> AsyncGenerator[Measured[Embedding] | LensembleError]:
        """See `Client.embed_stream`; what is under way when it is closed is cancelled."""
        return stream_batches(
            batches(items, batch_size),
            lambda batch: self._run_items(
                batch,
                lambda some: calls.measured(calls.embed(some, dimensions, embedder)),
                timeout_s,
            ),
            concurrency,
        )

    async def search(
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
        """See `Client.search`."""
        item = Item.of(text, image, instruction)
        looking = Looking(top_k, filter, exclude, min_score)
        return (await self.run(calls.search([item], looking, dimensions), timeout_s))[0]

    async def search_many(
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
    ) -> list[list[Hit] | LensembleError]:
        """See `Client.search_many`."""
        looking = Looking(top_k, filter, exclude, min_score)
        return await self.run_many(
            items,
            lambda some: calls.search(some, looking, dimensions),
            concurrency=concurrency,
            batch_size=batch_size,
            timeout_s=timeout_s,
        )

    async def search_vector(
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
        """See `Client.search_vector`."""
        looking = Looking(top_k, filter, exclude, min_score)
        return (await self.run(calls.search_vector(vector, looking, profile), timeout_s))[0]

    async def more_like(
        self,
        id: str,
        *,
        top_k: int = contract.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """See `Client.more_like`."""
        looking = Looking(top_k, filter, exclude, min_score)
        return (await self.run(calls.more_like(id, looking), timeout_s))[0]

    async def ingest(
        self,
        id: str,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        document: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """See `Client.ingest`."""
        record = Record(id, Item.of(text, image, instruction), document or {})
        return (await self.run(calls.ingest(record), timeout_s))[0]

    async def ingest_many(
        self,
        records: Iterable[Record],
        *,
        resume: bool = True,
        concurrency: int = IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> list[int | LensembleError]:
        """See `Client.ingest_many`."""

        async def one(batch: list[tuple[int, Record]]) -> list[int | LensembleError]:
            ((_, record),) = batch
            try:
                if resume:
                    stored = await self.run(calls.get(record.id), timeout_s)
                    if there := calls.unchanged(stored, record):
                        return [there]
                return [*await self.run(calls.ingest(record), timeout_s, patient=True)]
            except LensembleError as error:
                return [error]

        return await map_batches(([entry] for entry in enumerate(records)), one, concurrency)

    async def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        documents: Sequence[Mapping[str, Any]] | None = None,
        *,
        profile: str,
        timeout_s: float | None = None,
    ) -> list[int]:
        """See `Client.upsert`."""
        made = calls.upsert(ids, vectors, documents, profile)
        return [sequence for call in made for sequence in await self.run(call, timeout_s)]

    async def delete(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[int]:
        """See `Client.delete`."""
        made = calls.delete(ids)
        return [sequence for call in made for sequence in await self.run(call, timeout_s)]

    async def get(self, id: str, *, timeout_s: float | None = None) -> Stored:
        """See `Client.get`."""
        stored = await self.run(calls.get(id), timeout_s)
        if stored is None:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return stored

    async def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `Client.stats`."""
        return await self.run(calls.stats(), timeout_s)

    async def status(self, timeout_s: float | None = None) -> Status:
        """See `Client.status`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        version = await self._transport.version(timeout_s)
        return Status(version, await self._ready(list(contract.MODELS), timeout_s))

    async def embedders(self, timeout_s: float | None = None) -> tuple[str, ...]:
        """See `Client.embedders`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        models = contract.EMBEDDERS
        ready = [self._transport.ready(model.name, timeout_s) for model in models.values()]
        found = zip(models, await asyncio.gather(*ready), strict=True)
        return tuple(name for name, is_ready in found if is_ready)

    async def health(self, timeout_s: float | None = None) -> bool:
        """See `Client.health`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return all((await self._ready([contract.EMBED.name], timeout_s)).values())
        except LensembleError:
            return False

    async def _ready(self, names: list[str], timeout_s: float) -> dict[str, bool]:
        asked = [self._transport.ready(name, timeout_s) for name in names]
        ready = dict(zip(names, await asyncio.gather(*asked), strict=True))
        processes = sorted(
            {one for name in names for one in calls.processes_of(name) if ready[name]}
        )
        pinged = await asyncio.gather(*(self._answers(one, timeout_s) for one in processes))
        there = {one for one, answers in zip(processes, pinged, strict=True) if answers}
        return {name: ready[name] and there.issuperset(calls.processes_of(name)) for name in names}

    async def _answers(self, name: str, timeout_s: float) -> bool:
        call = calls.ping(name)
        try:
            await self._transport.infer(call.model, call.rows, call.parameters, timeout_s)
        except LensembleError as error:
            return calls.is_answer(error)
        return True

    async def run(
        self, call: Call[T], timeout_s: float | None = None, *, patient: bool = False
    ) -> T:
        """Carries a call of `calls`, with as many tries as it may have and as there is time for.

        Args:
            call: What to run.
            timeout_s: Seconds for all tries together; None takes the client's.
            patient: As of `Client.run`.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        tries = Tries(self._retry, timeout_s, patient=patient)
        while True:
            try:
                rows = await self._transport.infer(
                    call.model, call.rows, call.parameters, tries.left_s
                )
                return call.read(rows)
            except LensembleError as error:
                await asyncio.sleep(tries.wait_after(error, writes=call.writes))

    async def run_many(
        self,
        items: Iterable[Item],
        make: Callable[[list[Item]], Call[list[T]]],
        *,
        concurrency: int = IN_FLIGHT,
        batch_size: int = TEXTS,
        timeout_s: float | None = None,
        patient: bool = True,
    ) -> list[T | LensembleError]:
        """Carries a call for each batch of items: N in, N out, in the same order.

        Args:
            items: As in `embed_many`.
            make: Items -> the call of `calls` that gives one result for each.
            concurrency: As in `embed_many`.
            batch_size: As in `embed_many`.
            timeout_s: Seconds for each request.
            patient: As of `Client.run`.
        """
        return await map_batches(
            batches(items, batch_size),
            lambda batch: self._run_items(batch, make, timeout_s, patient),
            concurrency,
        )

    async def _run_items(
        self,
        batch: Numbered,
        make: Callable[[list[Item]], Call[list[T]]],
        timeout_s: float | None,
        patient: bool = True,
    ) -> list[T | LensembleError]:
        """As `Connection._run_items`."""
        try:
            found = await self.run(make([item for _, item in batch]), timeout_s, patient=patient)
            return [*one_each(found, batch)]
        except LensembleError as error:
            if not one_by_one(error, batch):
                return [error] * len(batch)
        return [(await self._run_items([one], make, timeout_s, patient))[0] for one in batch]


def _transport(url: str, tls: Path | str | None) -> AsyncTransport:
    scheme, place = address(url)
    make = AsyncGrpcTransport if scheme.startswith("grpc") else AsyncHttpTransport
    return make(place, certificates(scheme, tls))
