"""The real server encodes equal items once, and says so among its metrics."""

import re
import urllib.request

import numpy as np
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e


def vectors_made(server: TritonServer) -> dict[str, int]:
    with Client(server.grpc_url) as client:
        assert client.health()  # a ping: metrics are brought up to date
    with urllib.request.urlopen(server.metrics_url) as answer:
        said = answer.read().decode()
    return {
        source: int(float(count))
        for source, count in re.findall(
            r'^lensemble_vectors_total\{.*source="(\w+)".*\} (\S+)$', said, re.MULTILINE
        )
    }


def test_equal_items_cost_one_vector_and_remembered_ones_none(checkpoint):
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
        # Texts of one call share a request, so the last two are of one batch.
        found = client.embed_many([*items, Item("roof"), Item("roof")])
        assert vectors_made(server) == {"encoded": 4, "repeated": 1, "cached": 3}
        np.testing.assert_array_equal(found[0], found[2])
        np.testing.assert_array_equal(found[4], found[5])
        # What is remembered is the full vector, under this text and no other.
        short = client.embed("door", dimensions=64)
        np.testing.assert_allclose(
            short, found[0][:64] / np.linalg.norm(found[0][:64]), rtol=0, atol=1e-6
        )
        assert vectors_made(server)["cached"] == 4
        client.embed("door", instruction="Find a door.")
        assert vectors_made(server)["encoded"] == 5
