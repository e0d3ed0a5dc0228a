"""`embed_stream` of both clients: order, bounds, and an early end."""

import asyncio

import numpy as np
import pytest

from lensemble_client import AsyncClient, Client, Item
from tests.fake_server import FakeTransport, vector_of


def test_stream_gives_results_in_order_while_items_are_read():
    transport = FakeTransport()
    client = Client(transport=transport)
    read = []

    def items():
        for n in range(5000):
            read.append(n)
            yield Item(str(n)) if n % 100 == 0 else Item(images=(str(n).encode(),))

    for n, made in enumerate(client.embed_stream(items(), concurrency=3)):
        expected = vector_of(str(n) if n % 100 == 0 else str(n).encode())
        np.testing.assert_array_equal(made.result, expected)
        assert (made.profile, made.tokens) == ("sha256:a", 1)
        assert len(read) - n < 2000, "a text that waits for others holds up no more than APART"
    assert n == 4999


def test_stream_that_is_closed_begins_nothing_more():
    transport = FakeTransport()
    stream = Client(transport=transport).embed_stream(
        (Item(str(n)) for n in range(10_000)), concurrency=2
    )
    assert transport.sent == [], "nothing before it is asked for"
    next(stream)
    stream.close()
    assert len(transport.sent) <= 4 * 32


class AsyncFake:
    """`FakeTransport` for asyncio, whose first answers come last; counts what is under way."""

    def __init__(self, waits_s=0.0):
        self.fake, self.waits_s = FakeTransport(), waits_s
        self.now = self.most = self.cancelled = 0

    async def infer(self, *call):
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.waits_s or 0.001 * (len(self.fake.sent) % 3))
            return self.fake.infer(*call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


def test_asyncio_stream_gives_results_in_order_while_items_are_read():
    transport = AsyncFake()
    read = []

    def items():
        for n in range(2000):
            read.append(n)
            yield Item(str(n)) if n % 100 == 0 else Item(images=(str(n).encode(),))

    async def run():
        n = -1
        async for made in AsyncClient(transport=transport).embed_stream(items(), concurrency=3):
            n += 1
            expected = vector_of(str(n) if n % 100 == 0 else str(n).encode())
            np.testing.assert_array_equal(made.result, expected)
            assert len(read) - n < 1500, "a text that waits for others holds up no more than APART"
        assert n == 1999

    asyncio.run(run())
    assert transport.most == 3


def test_asyncio_stream_that_is_closed_cancels_what_is_under_way():
    transport = AsyncFake(waits_s=60)

    async def run():
        stream = AsyncClient(transport=transport).embed_stream(
            (Item(images=(str(n).encode(),)) for n in range(10_000)), concurrency=2
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        await stream.aclose()

    asyncio.run(run())
    assert (transport.now, transport.fake.sent) == (0, [])
    assert transport.cancelled >= 2


def test_asyncio_stream_hands_on_what_its_items_raise():
    def items():
        yield Item(images=(b"a",))
        raise OSError("the disk is gone")

    async def run():
        async for _ in AsyncClient(transport=AsyncFake()).embed_stream(items()):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(run())
