"""The commands that store, read and remove items, with a fake server."""

import json

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


def test_items_are_listed_counted_and_changed(client, capsys):
    client.ingest("c", "three", document={"year": 2021, "make": "señal"})

    def run(*words):
        assert main([*words]) == 0
        return capsys.readouterr().out

    assert (
        run("list") == 'a  {"year": 2015}\nb  {"year": 2020}\nc  {"year": 2021, "make": "señal"}\n'
    )
    assert run("list", "--ids", "--filter", '{"year": {"$gt": 2015}}', "--limit", "1") == "b\n"
    (line,) = run("list", "--json", "--limit", "1").splitlines()
    assert json.loads(line) == {"id": "a", "sequence": 1, "document": {"year": 2015}}
    assert run("count") == "3\n"
    assert run("count", "--filter", '{"year": {"$gt": 2015}}') == "2\n"
    vector = client.get("c").embedding
    message = "c: document changed, sequence number 4\n"
    assert run("patch", "c", '{"sold": true, "make": null}') == message
    assert client.get("c").document == {"year": 2021, "sold": True}
    assert run("patch", "--replace", "c", "{}").endswith("number 5\n")
    assert client.get("c").document == {}
    assert (client.get("c").embedding == vector).all()
    for words, message in (
        (["patch", "gone", "{}"], "id: no item 'gone' in the index"),
        (["patch", "c", "[]"], "document: '[]'; expected a JSON object"),
        (["list", "--limit", "0"], "limit: 0; expected 1 or more"),
        (["count", "--filter", '{"$x": 1}'], "filter: '$x'; expected"),
    ):
        assert main(words) == 1
        assert message in capsys.readouterr().err


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
