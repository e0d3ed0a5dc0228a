"""The real server encodes equal items once, and counts that in its metrics."""

import re
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from tests.pictures import encode, textured
from tests.waiting import until

pytestmark = pytest.mark.e2e


def vectors_made(server: TritonServer) -> dict[str, int]:
    with Client(server.grpc_url) as client:
        assert client.health()  # a ping updates the metrics
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    counts: Counter[str] = Counter()
    for source, count in re.findall(
        r'^lensemble_vectors_total\{.*source="(\w+)".*\} (\S+)$', text, re.MULTILINE
    ):
        counts[source] += int(float(count))
    return dict(counts)


def test_equal_items_are_encoded_once_and_cached_ones_not_at_all(checkpoint):
    picture = encode(textured(96, 64))
    items = [Item("door"), Item("door", (picture,)), Item("door"), Item(images=(picture,))]
    with (
        TritonServer(Settings(checkpoint=checkpoint, cache_mib=1)) as server,
        Client(server.grpc_url) as client,
    ):
        assert vectors_made(server) == {"encoded": 0, "repeated": 0, "cached": 0}
        for item in (items[0], items[1]):
            client.embed(item.text, item.images or None)
        assert vectors_made(server) == {"encoded": 2, "repeated": 0, "cached": 0}
        # Texts of one call share a request, so the last two are in one batch.
        vectors = client.embed_many([*items, Item("roof"), Item("roof")])
        assert vectors_made(server) == {"encoded": 4, "repeated": 1, "cached": 3}
        np.testing.assert_array_equal(vectors[0], vectors[2])
        np.testing.assert_array_equal(vectors[4], vectors[5])
        # The cache holds the full vector, under exactly this text.
        short = client.embed("door", dimensions=64)
        np.testing.assert_allclose(
            short, vectors[0][:64] / np.linalg.norm(vectors[0][:64]), rtol=0, atol=1e-6
        )
        assert vectors_made(server)["cached"] == 4
        client.embed("door", instruction="Find a door.")
        assert vectors_made(server)["encoded"] == 5


def test_encoder_processes_share_the_cache(checkpoint):
    settings = Settings(checkpoint=checkpoint, cache_mib=1, encoder_instances=2)
    with (
        TritonServer(settings) as server,
        Client(server.grpc_url) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        first = client.embed("door")
        for vector in threads.map(lambda _: client.embed("door"), range(64)):
            np.testing.assert_array_equal(vector, first)
        # Each process publishes its own counts, some of them only after the next ping.
        until(lambda: sum(vectors_made(server).values()) == 65)
        assert vectors_made(server) == {"encoded": 1, "repeated": 0, "cached": 64}
