"""Runs batches with tasks of asyncio. `threads` has the same functions for synchronous code."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from lensemble_client.concurrency.ordering import OrderedResults, progress_bar

A = TypeVar("A")
E = TypeVar("E")
T = TypeVar("T")

# Values that are converted in about a millisecond, documents of hits for instance.
_SMALL_SIZE = 500


async def sleep(seconds: float) -> None:
    """Waits without blocking the event loop."""
    await asyncio.sleep(seconds)


async def run_aside(function: Callable[[A], T], argument: A, *, size: int) -> T:
    """Calls a function, in a thread if that takes long, so that it does not block the event loop.

    Args:
        function: The function.
        argument: Its argument.
        size: Number of values that the function has to convert.
    """
    if size <= _SMALL_SIZE:
        return function(argument)
    return await asyncio.to_thread(function, argument)


async def call_each(function: Callable[[A], Awaitable[T]], arguments: Iterable[A]) -> list[T]:
    """Calls a function with all arguments at the same time; returns the results in order."""
    return await asyncio.gather(*(function(argument) for argument in arguments))


async def map_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], Awaitable[list[T]]],
    *,
    concurrency: int,
    label: str = "",
    total: int | None = None,
    progress: bool = False,
) -> list[T]:
    """Runs a function on every batch, and collects the results.

    `threads.map_batches` describes the arguments. If the caller is cancelled, all running batches
    are cancelled.
    """
    results: list[T] = []
    with progress_bar(label, total, shown=progress) as advance:
        async for result in stream_batches(batches, work, concurrency):
            results.append(result)
            advance(1)
    return results


async def stream_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], Awaitable[list[T]]],
    concurrency: int,
) -> AsyncGenerator[T]:
    """Runs a function on every batch, and yields each result in order.

    `threads.stream_batches` describes the arguments. If the generator is closed or its caller is
    cancelled, all running batches are cancelled.
    """
    concurrency = max(1, concurrency)
    room = asyncio.Semaphore(concurrency)
    ordered = OrderedResults[T]()
    running: deque[tuple[list[int], asyncio.Task[list[T]]]] = deque()

    async def work_when_there_is_room(batch: list[tuple[int, E]]) -> list[T]:
        async with room:
            return await work(batch)

    async def wait_for_oldest() -> list[T]:
        positions, task = running[0]
        # Unlike `await task`, this does not cancel the batch if the caller is cancelled. The end of
        # the cancelled batch would make room, and another batch would start.
        await asyncio.wait((task,))
        running.popleft()
        return ordered.add(positions, task.result())

    try:
        for batch in batches:
            positions = [position for position, _ in batch]
            running.append((positions, asyncio.create_task(work_when_there_is_room(batch))))
            if len(running) >= 2 * concurrency:
                for result in await wait_for_oldest():
                    yield result
        while running:
            for result in await wait_for_oldest():
                yield result
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
