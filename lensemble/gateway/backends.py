"""The servers behind the gateway, and how the items of one request are sent to Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lensemble.gateway.chat_server import ChatServer
from lensemble.gateway.errors import with_location
from lensemble.gateway.inputs.json_bodies import run_off_loop
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.served_models import ServedModels
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import AsyncClient, calls
from lensemble_client.calls import Call
from lensemble_client.results import Measured
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Record

T = TypeVar("T")

# Writes of one request that are sent to Triton at the same time. Triton batches them.
_CONCURRENT_WRITES = 16


class Backends:
    """Connections to Triton and to the chat server; one object for each gateway process.

    Args:
        settings: settings of the gateway.
        triton: client of Triton; None makes one from the settings.

    Attributes:
        triton: client of Triton.
        served_models: the embedders that Triton serves.
        chat_server: client of the chat server.

    Raises:
        InvalidInputError: An address in the settings is malformed.
    """

    def __init__(self, settings: GatewaySettings, triton: AsyncClient | None = None) -> None:
        self.triton = triton or AsyncClient(
            settings.triton, tls=settings.triton_tls, timeout_s=settings.timeout_s
        )
        self.served_models = ServedModels(self.triton, settings.metrics)
        self.chat_server = ChatServer(settings)

    async def close(self) -> None:
        """Closes the connections."""
        await self.triton.close()
        await self.served_models.close()
        await self.chat_server.close()

    async def run(
        self,
        items: Sequence[Item | LensembleError],
        make_call: Callable[[list[Item]], Call[list[T]]],
        stats: RequestStats,
        *,
        partial: bool = True,
    ) -> list[Measured[T] | LensembleError]:
        """Sends items to Triton in batches: to embed them, or to search for them.

        Args:
            items: items, and an error in the place of each item that could not be read.
            make_call: makes the call for a batch of items; the call returns one result for each.
            stats: statistics of the request, which are updated.
            partial: whether the results of the other items are wanted if an item fails.

        Returns:
            One result or error for each item, in the same order. The field of an error starts with
            its item's place, such as `input[2]`.

        Raises:
            LensembleError: All items failed, or one failed and `partial` is false; this is the
                error of the first one that failed.
        """
        valid_items = [item for item in items if isinstance(item, Item)]
        stats.items += len(items)
        if not partial and len(valid_items) < len(items):
            stats.errors += len(items) - len(valid_items)
            _require_all(items)  # before any work is done
        stats.pictures += sum(len(item.images) for item in valid_items)
        triton_results = await self.triton.run_many(
            valid_items,
            lambda batch: calls.measured(make_call(batch)),
            # If Triton is overloaded, a single item fails at once. Several items are retried for
            # longer, because they themselves may be the load.
            patient=len(valid_items) > 1,
        )
        if any(isinstance(result, Measured) for result in triton_results):
            self.served_models.note_answer()
        remaining = iter(triton_results)
        results = [item if isinstance(item, LensembleError) else next(remaining) for item in items]
        stats.add_results(results)
        if len(results) == 1 and isinstance(results[0], LensembleError):
            raise results[0]  # a single item needs no `input[0]` in the field of its error
        if not partial:
            _require_all(results)
        return _located(results, "input")

    async def store(
        self, records: Sequence[tuple[str, Record | LensembleError]], stats: RequestStats
    ) -> list[Measured[int] | LensembleError]:
        """Embeds and stores items; those with the same id are written one after another, in order.

        Args:
            records: the id of each item with the item, or with an error in its place.
            stats: statistics of the request, which are updated.

        Returns:
            One sequence number or error for each item, in the same order.

        Raises:
            LensembleError: All items failed; this is the error of the first one.
        """
        slots = asyncio.Semaphore(_CONCURRENT_WRITES)

        async def write(
            record: Record | LensembleError, earlier_write: asyncio.Task[Any] | None
        ) -> Measured[int] | LensembleError:
            if isinstance(record, LensembleError):
                return record
            if earlier_write is not None:
                await asyncio.wait([earlier_write])
            try:
                async with slots:
                    # The digest of a large picture takes some time.
                    size = sum(map(len, record.item.images))
                    call = await run_off_loop(size, calls.ingest, record)
                    return (await self.triton.run(calls.measured(call)))[0]
            except LensembleError as error:
                return error

        stats.items += len(records)
        last_write_of_id: dict[str, asyncio.Task[Any]] = {}
        writes = []
        async with asyncio.TaskGroup() as group:
            for id_, record in records:
                task = group.create_task(write(record, last_write_of_id.get(id_)))
                last_write_of_id[id_] = task
                writes.append(task)
                stats.pictures += len(record.item.images) if isinstance(record, Record) else 0
        results = [task.result() for task in writes]
        stats.add_results(results)
        return _located(results, "items")


def _require_all(results: Sequence[object]) -> None:
    """Refuses a request of which an item has failed.

    Raises:
        LensembleError: The error of the first item whose input is wrong; without one, the first
            error. It names the item, and says how to get the results of the others.
    """
    errors = {n: each for n, each in enumerate(results) if isinstance(each, LensembleError)}
    if not errors:
        return
    wrong = [n for n, error in errors.items() if isinstance(error, InvalidInputError)]
    n = next(iter(wrong or errors))
    if len(results) == 1:
        raise errors[n]
    hint = '; leave the item out, or send `"partial": true` for the vectors of the others'
    raise with_location(errors[n], f"input[{n}]", hint)


def _located(
    results: list[Measured[T] | LensembleError], field: str
) -> list[Measured[T] | LensembleError]:
    """The results; the field of each error starts with the place of its item.

    Raises:
        LensembleError: All items failed; this is the error of the first one.
    """
    located = [
        with_location(result, f"{field}[{n}]") if isinstance(result, LensembleError) else result
        for n, result in enumerate(results)
    ]
    errors = [result for result in located if isinstance(result, LensembleError)]
    if len(errors) == len(located):
        raise errors[0]
    return located
