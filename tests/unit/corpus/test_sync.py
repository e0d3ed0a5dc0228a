"""`lensemble corpus sync`: what it adds, changes, removes and leaves, on a fake server."""

import json
import os

import pytest

from lensemble_cli.corpus import sync as sync_command
from lensemble_cli.main import main
from lensemble_client import (
    InternalError,
    InvalidInputError,
    NotReadyError,
    ReadOnlyError,
    Retry,
)
from lensemble_client.testing import FakeServer, FakeTransport, fake_client
from lensemble_corpus.source import Source
from lensemble_corpus.sync.row_sync import Outcome
from lensemble_corpus.sync.table_sync import sync_table
from tests.pictures import encode, textured


class Table:
    """A table of pictures with texts, and an index that follows it.

    Attributes:
        path: File with the rows.
        server: Fake server with the index.
        client: Client of the server.
    """

    def __init__(self, folder):
        self.path = folder / "cars.json"
        self.server = FakeServer()
        self.transport = FakeTransport(self.server)
        self.client = fake_client(self.server, retry=Retry(tries=1))
        for n in range(6):
            self.draw(n, n)
        self.write([row(n) for n in range(4)])

    def draw(self, n, seed):
        (self.path.parent / f"{n}.png").write_bytes(encode(textured(40, 30, seed)))

    def write(self, rows):
        self.path.write_text(json.dumps(rows))

    def sync(self, client=None, **options):
        """Counts of the outcomes without the zeros, failures, and the number of embedded items."""
        self.server.embedded.clear()
        source = Source(self.path, text="{make}", id_field="id")
        self.summary = sync_table(client or self.client, source, **options)
        counts = {str(key): count for key, count in self.summary.counts.items() if count}
        return counts, len(self.summary.failed), len(self.server.embedded)

    def documents(self):
        return {item.id: item.document for item in self.client.list_items()}


def row(n, **fields):
    return {"id": str(n), "path": f"{n}.png", "make": "seat", "year": 2010 + n, **fields}


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path)


def test_index_follows_the_table(table):
    assert table.sync() == ({"added": 4}, 0, 4)
    assert table.documents() == {str(n): row(n) for n in range(4)}
    sequence = table.server.index.sequence
    assert table.sync() == ({"unchanged": 4}, 0, 0)
    assert table.server.index.sequence == sequence, "nothing is written"
    table.draw(1, 9)
    table.write([row(0), row(1), row(2, year=1999), row(3, make="opel"), row(4)])
    vector = table.client.get("2").embedding
    counts = {"unchanged": 1, "embedded again": 2, "document changed": 1, "added": 1}
    assert table.sync() == (counts, 0, 3)
    assert table.documents()["2"]["year"] == 1999
    assert (table.client.get("2").embedding == vector).all()
    table.write([row(2, year=1999), row(3, make="opel"), row(4)])
    assert table.sync() == ({"unchanged": 3, "removed": 2}, 0, 0)
    assert sorted(table.documents()) == ["2", "3", "4"]


def test_what_others_have_written_stays(table):
    table.client.ingest("live", "a red car", document={"sold": True})
    table.client.ingest("2", "somebody's own item")
    assert table.sync() == ({"added": 3, "embedded again": 1}, 0, 4)
    assert table.summary.others == 1
    assert table.client.get("live").document == {"sold": True}
    other = table.path.with_name("vans.json")
    table.path, cars = other, table.path
    table.write([row(4), row(5)])
    assert table.sync() == ({"added": 2}, 0, 2)
    table.path = cars
    assert table.sync() == ({"unchanged": 4}, 0, 0)
    assert len(table.documents()) == 7
    # An id of two tables would go to and fro.
    table.write([row(n) for n in range(5)])
    assert table.sync() == ({"unchanged": 4}, 1, 0)
    (failed,) = table.summary.failed
    assert "another table" in str(failed.error) and "--name" in str(failed.error)
    table.path = table.path.rename(table.path.with_name("renamed.json"))
    assert table.sync(name="cars.json") == ({"unchanged": 4}, 1, 0)


def test_dry_run_writes_nothing(table):
    table.sync()
    table.draw(1, 9)
    table.write([row(1), row(2, year=1999), row(3), row(5)])
    before = table.server.index.sequence
    reported = []
    counts = {
        "embedded again": 1,
        "document changed": 1,
        "unchanged": 1,
        "added": 1,
        "removed": 1,
    }
    expected = (counts, 0, 0)
    assert table.sync(dry_run=True, report=lambda *what: reported.append(what)) == expected
    assert sorted(reported) == sorted(
        [
            (Outcome.EMBEDDED_AGAIN, "1"),
            (Outcome.DOCUMENT_CHANGED, "2"),
            (Outcome.ADDED, "5"),
            (Outcome.REMOVED, "0"),
        ]
    )
    assert table.server.index.sequence == before
    assert table.sync()[0] == counts


def test_interrupted_run_continues(table, monkeypatch):
    infer, calls = table.transport.infer, []

    def failing(model, rows, parameters, timeout_s):
        if model.name == "ingest":
            calls.append(model)
            if len(calls) > 2:
                raise NotReadyError("gone")
        return infer(model, rows, parameters, timeout_s)

    monkeypatch.setattr(table.transport, "infer", failing)
    client = type(table.client)(transport=table.transport, retry=Retry(tries=1))
    with pytest.raises(NotReadyError):
        table.sync(client, concurrency=1)
    assert len(table.documents()) == 2
    assert table.sync() == ({"unchanged": 2, "added": 2}, 0, 2)


def test_copied_files_are_read_but_not_embedded_again(table, monkeypatch):
    """Another machine, or a new checkout, has other times of the same files."""
    table.sync()
    for n in range(4):
        os.utime(table.path.parent / f"{n}.png", ns=(n, n))
    before = table.documents()
    assert table.sync() == ({"unchanged": 4}, 0, 0)
    assert table.documents() == before
    monkeypatch.delattr("lensemble_corpus.entries.Entry.item")
    assert table.sync() == ({"unchanged": 4}, 0, 0), "the second time, no file is read"


def test_items_of_ingest_are_taken_over(table):
    table.sync()
    for n in range(4):
        picture = table.path.parent / f"{n}.png"
        table.client.delete([str(n)])
        table.client.ingest(str(n), "seat", picture, document=row(n))
    assert table.sync() == ({"unchanged": 4}, 0, 0)
    table.write([row(n, year=1) for n in range(4)])
    assert table.sync() == ({"document changed": 4}, 0, 0)


def test_documents_that_were_changed_live_are_set_back(table):
    table.sync()
    table.client.patch("1", {"sold": True})
    assert table.sync() == ({"unchanged": 3, "document changed": 1}, 0, 0)
    assert table.documents()["1"] == row(1)


def test_failed_rows_leave_what_the_index_has(table):
    table.sync()
    before = table.documents()
    (table.path.parent / "0.png").unlink()
    (table.path.parent / "1.png").write_bytes(b"broken")
    table.server.errors[b"broken"] = InvalidInputError("not a picture", field="image[0]")
    table.server.errors["opel"] = InternalError("a fault")
    rows = [row(0), row(1), row(2, make="opel"), row(3), row(3, year=1), row(4, id=None)]
    table.write(rows)
    assert table.sync() == ({"unchanged": 1}, 5, 0)
    assert [(failed.where, failed.id) for failed in table.summary.failed] == [
        ("row 1", "0"),
        ("row 2", "1"),
        ("row 3", "2"),
        ("row 5", "3"),
        ("row 6", ""),
    ]
    assert "its id is that of row 4" in str(table.summary.failed[3].error)
    assert table.documents() == before


def test_nothing_is_removed_while_an_id_is_unknown_or_most_are_missing(table):
    table.sync()
    table.write([row(0), row(1), row(2), {"path": "5.png", "make": "seat"}])
    assert table.sync() == ({"unchanged": 3}, 1, 0)
    assert (table.summary.kept, "row 4" in table.summary.why_kept) == (1, True)
    table.write([row(0)])
    assert table.sync() == ({"unchanged": 1}, 0, 0)
    assert (table.summary.kept, "half of the 4 items" in table.summary.why_kept) == (3, True)
    assert len(table.documents()) == 4
    assert table.sync(remove_most=True) == ({"unchanged": 1, "removed": 3}, 0, 0)
    assert table.summary.kept == 0


def test_errors_of_every_row_end_the_run(table):
    server = FakeServer(writes=False)
    with pytest.raises(ReadOnlyError):
        table.sync(fake_client(server, retry=Retry(tries=1)))


def test_the_command_prints_what_changes(table, capsys, monkeypatch):
    monkeypatch.setattr(sync_command, "connect", lambda *_: fake_client(table.server))
    command = ["corpus", "sync", str(table.path), "--text", "{make}", "--id-field", "id"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["added", "0"]
    assert printed.out.splitlines()[-1] == (
        "nothing was written; it would be: 4 added, 0 embedded again, 0 document changed, "
        "0 unchanged, 0 removed; 0 other items in the index"
    )
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("4 added, 0 embedded again")
    table.write([row(0), row(9)])
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "1 unchanged" in printed.out
    assert "error: 3 items whose rows are missing were not removed" in printed.err
    assert "error: row 2, '9': image[0]: cannot read" in printed.err
