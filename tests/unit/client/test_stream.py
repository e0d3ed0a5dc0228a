"""`embed_stream` of both clients: order, bounds, and an early end."""

import asyncio
import itertools
import threading

import numpy as np
import pytest

from lensemble_client import AsyncClient, Client, Item
from lensemble_client.testing import (
    AsyncFakeTransport,
    FakeServer,
    FakeTransport,
    fake_async_client,
    fake_client,
    vector_of,
)
from tests.waiting import DEADLINE_S

# The number of items that have been read exceeds the number of results by less than this. The texts
# of one request are up to 1,024 items apart; the rest are the items of other requests.
LARGEST_LEAD = 1500


def mixed_item(n):
    return Item(str(n)) if n % 100 == 0 else Item(images=(str(n).encode(),))


def mixed_items(count, read):
    """Yields items of which every hundredth is a text; adds the number of each to `read`."""
    for n in range(count):
        read.append(n)
        yield mixed_item(n)


def pictures(count):
    """Items that have one request each."""
    return [Item(images=(str(n).encode(),)) for n in range(count)]


def check(n, measured):
    """Checks the result for the n-th of `mixed_items`."""
    np.testing.assert_array_equal(measured.result, vector_of(mixed_item(n)))
    assert (measured.profile, measured.tokens) == ("sha256:fake", 1)


def test_results_come_in_order_while_items_are_read():
    read = []
    for n, measured in enumerate(
        fake_client().embed_stream(mixed_items(3000, read), concurrency=3)
    ):
        check(n, measured)
        assert len(read) - n < LARGEST_LEAD
    assert n == 2999


def test_asyncio_results_come_in_order_while_items_are_read():
    read = []

    async def run():
        n = -1
        async for measured in fake_async_client().embed_stream(
            mixed_items(3000, read), concurrency=3
        ):
            n += 1
            check(n, measured)
            assert len(read) - n < LARGEST_LEAD
        assert n == 2999

    asyncio.run(run())


class SwappingTransport(FakeTransport):
    """Every second request is answered before the one that came before it."""

    def __init__(self, count):
        super().__init__()
        self.answered = []
        self._done = [threading.Event() for _ in range(count)]

    def infer(self, model, rows, parameters, timeout_s):
        n = int(rows["image"][0, 0])
        if n % 2 == 0:
            assert self._done[n + 1].wait(DEADLINE_S)
        self.answered.append(n)
        self._done[n].set()
        return super().infer(model, rows, parameters, timeout_s)


class AsyncSwappingTransport(AsyncFakeTransport):
    """Every second request is answered before the one that came before it."""

    def __init__(self, count):
        super().__init__()
        self.answered = []
        self._done = [asyncio.Event() for _ in range(count)]

    async def infer(self, model, rows, parameters, timeout_s):
        n = int(rows["image"][0, 0])
        if n % 2 == 0:
            await asyncio.wait_for(self._done[n + 1].wait(), DEADLINE_S)
        self.answered.append(n)
        self._done[n].set()
        return await super().infer(model, rows, parameters, timeout_s)


def test_answers_in_another_order_do_not_change_the_order_of_the_results():
    transport = SwappingTransport(20)
    stream = Client(transport=transport).embed_stream(pictures(20), concurrency=3)
    vectors = [measured.result for measured in stream]
    np.testing.assert_array_equal(vectors, [vector_of(item) for item in pictures(20)])
    assert transport.answered != sorted(transport.answered)


def test_asyncio_answers_in_another_order_do_not_change_the_order_of_the_results():
    async def run():
        transport = AsyncSwappingTransport(20)
        stream = AsyncClient(transport=transport).embed_stream(pictures(20), concurrency=3)
        vectors = [measured.result async for measured in stream]
        np.testing.assert_array_equal(vectors, [vector_of(item) for item in pictures(20)])
        assert transport.answered != sorted(transport.answered)

    asyncio.run(run())


def test_closed_stream_starts_no_further_requests():
    server = FakeServer()
    items = (Item(str(n)) for n in itertools.count())
    stream = fake_client(server).embed_stream(items, concurrency=2)
    assert server.embedded == [], "nothing is sent before a result is requested"
    next(stream)
    stream.close()
    assert len(server.embedded) <= 4 * 32, "at most 2 * concurrency requests of 32 texts"


class HoldingTransport(AsyncFakeTransport):
    """Answers no request before it is told to; counts those that run.

    Attributes:
        full: Set when `count` requests run.
        release: Set it to have all requests answered.
    """

    def __init__(self, count):
        super().__init__()
        self._count = count
        self.full, self.release = asyncio.Event(), asyncio.Event()
        self.running = self.most = self.cancelled = 0

    async def infer(self, model, rows, parameters, timeout_s):
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == self._count:
            self.full.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return await super().infer(model, rows, parameters, timeout_s)


def test_asyncio_stream_runs_as_many_requests_as_it_may():
    async def run():
        transport = HoldingTransport(3)
        stream = AsyncClient(transport=transport).embed_stream(pictures(20), concurrency=3)
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(DEADLINE_S):
            await transport.full.wait()
        transport.release.set()
        await first
        assert len([measured async for measured in stream]) == 19
        assert transport.most == 3

    asyncio.run(run())


def test_closed_asyncio_stream_cancels_the_requests_that_run():
    async def run():
        transport = HoldingTransport(2)
        items = (Item(images=(str(n).encode(),)) for n in itertools.count())
        stream = AsyncClient(transport=transport).embed_stream(items, concurrency=2)
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(DEADLINE_S):
            await transport.full.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await stream.aclose()
        assert (transport.running, transport.cancelled, transport.most) == (0, 2, 2)
        assert transport.server.embedded == []

    asyncio.run(run())


def test_asyncio_stream_raises_the_error_of_its_items():
    def items():
        yield Item(images=(b"a",))
        raise OSError("the disk is gone")

    async def run():
        async for _ in fake_async_client().embed_stream(items()):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(run())
