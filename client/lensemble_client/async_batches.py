"""Batches under way at a time, on one event loop: the asyncio half of `connection`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from lensemble_client.batches import in_order

T = TypeVar("T")
E = TypeVar("E")


async def map_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], Awaitable[list[T]]],
    in_flight: int,
) -> list[T]:
    """As `connection.map_batches`: takes batches as there is room for them.

    If the caller is cancelled, so is all that is under way.
    """
    found: dict[int, T] = {}
    waiting = iter(batches)

    async def worker() -> None:
        for batch in waiting:  # one iterator for all: each batch goes to one of them
            for (number, _), result in zip(batch, await work(batch), strict=True):
                found[number] = result

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, in_flight)):
                group.create_task(worker())
    except BaseExceptionGroup as errors:  # of the caller's own iterator, most likely
        raise errors.exceptions[0] from None
    return in_order(found)


async def stream_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], Awaitable[list[T]]],
    in_flight: int,
) -> AsyncGenerator[T]:
    """As `connection.stream_batches`: gives each result once it and all before it are there.

    At most `2 * in_flight` batches are held at a time, and the results that wait for an earlier
    place. If the generator is closed or its caller cancelled, so is all that is under way.
    """
    in_flight = max(1, in_flight)
    room = asyncio.Semaphore(in_flight)
    found: dict[int, T] = {}
    due = 0
    running: deque[tuple[list[int], asyncio.Task[list[T]]]] = deque()

    async def one(batch: list[tuple[int, E]]) -> list[T]:
        async with room:
            return await work(batch)

    async def take() -> list[T]:
        nonlocal due
        places, task = running[0]
        found.update(zip(places, await task, strict=True))
        running.popleft()
        ready = []
        while due in found:
            ready.append(found.pop(due))
            due += 1
        return ready

    try:
        for batch in batches:
            places = [place for place, _ in batch]
            running.append((places, asyncio.create_task(one(batch))))
            if len(running) >= 2 * in_flight:
                for result in await take():
                    yield result
        while running:
            for result in await take():
                yield result
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
