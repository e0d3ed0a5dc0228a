"""Runs batches with threads. `tasks` has the same functions for asyncio."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lensemble_client.concurrency.ordering import OrderedResults, progress_bar

A = TypeVar("A")
E = TypeVar("E")
T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def run_aside(function: Callable[[A], T], argument: A, *, size: int) -> T:
    """Calls a function. `tasks.run_aside` describes the arguments."""
    return function(argument)


def call_each(function: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
    """Calls a function with each argument, one after the other; returns the results in order."""
    return [function(argument) for argument in arguments]


def map_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], list[T]],
    *,
    concurrency: int,
    label: str = "",
    total: int | None = None,
    progress: bool = False,
) -> list[T]:
    """Runs a function on every batch with threads, and collects the results.

    Batches are read from the iterable only while there is room for them, so there may be any
    number of them.

    Args:
        batches: Batches of items with their positions; each position from 0 on occurs once.
        work: Function from a batch to one result for each of its items.
        concurrency: Largest number of batches that run at the same time.
        label: Text in front of the progress bar.
        total: Number of items, if known.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The results in the order of the positions.
    """
    results: list[T] = []
    with progress_bar(label, total, shown=progress) as advance:
        for result in stream_batches(batches, work, concurrency):
            results.append(result)
            advance(1)
    return results


def stream_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], list[T]],
    concurrency: int,
) -> Generator[T]:
    """Runs a function on every batch with threads, and yields each result in order.

    A result is yielded as soon as it and all earlier ones are complete. At most `2 * concurrency`
    batches are in memory, together with the results that wait for an earlier one. No batch is read
    before the first result is requested. After the generator is closed, no further batch starts,
    and it waits for those that run.

    Args:
        batches: Batches of items with their positions; each position from 0 on occurs once.
        work: Function from a batch to one result for each of its items.
        concurrency: Largest number of batches that run at the same time.

    Yields:
        The results in the order of the positions.
    """
    concurrency = max(1, concurrency)
    ordered = OrderedResults[T]()
    running: deque[tuple[list[int], Future[list[T]]]] = deque()

    def wait_for_oldest() -> Iterator[T]:
        positions, future = running.popleft()
        yield from ordered.add(positions, future.result())

    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for batch in batches:
                running.append(([position for position, _ in batch], pool.submit(work, batch)))
                if len(running) >= 2 * concurrency:
                    yield from wait_for_oldest()
            while running:
                yield from wait_for_oldest()
        except BaseException:
            # Leaving the `with` block still waits for the batches that run, even after Ctrl-C.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
