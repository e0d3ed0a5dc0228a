"""The commands that store, read and remove items, with a fake server."""

import pytest

from lensemble_cli import items
from lensemble_cli.main import main
from lensemble_client.testing import FakeServer, fake_client


@pytest.fixture
def client(monkeypatch):
    server = FakeServer()
    monkeypatch.setattr(items, "connect", lambda args: fake_client(server))
    client = fake_client(server)
    client.ingest("a", "one", document={"year": 2015})
    client.ingest("b", "two", document={"year": 2020})
    return client


def test_delete_names_what_was_missing(client, capsys):
    assert main(["delete", "a", "gone", "b", "b", "café"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "2 of 4 items removed\n"
    assert printed.err.splitlines() == [
        "error: 'gone': no such item in the index",
        "error: 'caf\\xe9': no such item in the index",
    ]
    client.ingest("a", "one")
    assert main(["delete", "a"]) == 0
