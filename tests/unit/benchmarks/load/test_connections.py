"""Connections to the server: URLs, and the check of answers."""

import pytest

from benchmarks.load.users.gateway_connection import HttpError
from benchmarks.load.users.triton_connection import TritonConnection, check_url
from lensemble_client import Client, Item
from lensemble_client.testing import FakeServer, FakeTransport
from lensemble_contract.errors import InternalError, InvalidInputError


@pytest.mark.parametrize(
    ("protocol", "url"),
    [("grpc", "http://a:1"), ("http", "grpc://a:1"), ("gateway", "grpc://a:1"), ("grpc", "a:1")],
)
def test_url_of_another_protocol_is_rejected(protocol, url):
    with pytest.raises(InvalidInputError, match=rf"'{url}'.*expected"):
        check_url(protocol, url)


def test_vectors_that_are_not_of_unit_length_are_errors():
    class Wrong(FakeTransport):
        def infer(self, *args):
            rows = super().infer(*args)
            return {**rows, "embedding": rows["embedding"] * 1.5}

    items = [Item("a"), Item("b")]
    server = FakeServer(dimension=4)
    right = TritonConnection(Client(transport=FakeTransport(server)))
    assert right.send("embed", items) == 2 * 4 * 4, "two vectors of four float32"
    with pytest.raises(InternalError, match=r"length 1\.5"):
        TritonConnection(Client(transport=Wrong(server))).send("embed", items)


def test_errors_of_the_gateway_are_named_by_their_status():
    assert HttpError(429, b"too much").name == "HTTP 429"
