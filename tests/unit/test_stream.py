"""`Client.embed_stream`: order, bounds, and an early end."""

import numpy as np

from lensemble_client import Client, Item
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
