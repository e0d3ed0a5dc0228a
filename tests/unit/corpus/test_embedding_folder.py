"""The folder of embeddings: what is in it, and what a killed or repeated run makes of it."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensemble_client import (
    Client,
    InternalError,
    InvalidInputError,
    Item,
    NotReadyError,
    Retry,
    StorageError,
    testing,
)
from lensemble_corpus import embedding_folder as module
from lensemble_corpus import journal as journal_module
from lensemble_corpus.embedding_folder import Manifest, embed_source, read_failures, read_rows
from lensemble_corpus.journal import DONE, VECTORS, Journal, Making
from lensemble_corpus.tables import Source
from lensemble_export.index_from_embeddings import index_embeddings

D = 4
ROWS = [{"id": n, "text": f"text {n}", "kind": "even" if n % 2 == 0 else "odd"} for n in range(10)]


def vector_of(content):
    item = Item(images=(content,)) if isinstance(content, bytes) else Item(content)
    return testing.vector_of(item, D)


class Corpus:
    """A source of texts, a folder, and runs over them."""

    def __init__(self, folder):
        self.path, self.out = folder / "rows.json", folder / "out"
        self.server = testing.FakeServer(dimension=D, profile="sha256:a")
        self.transport = testing.FakeTransport(self.server)
        self.write(ROWS)

    @property
    def sent(self):
        """The pictures and texts that the last run sent."""
        return [item.images[0] if item.images else item.text for item in self.server.embedded]

    def write(self, rows):
        self.path.write_text(json.dumps(rows))

    def run(self, template="{text}", **options):
        self.server.embedded.clear()
        client = Client(transport=self.transport, retry=Retry(tries=1))
        source = Source(self.path, text=template, id_field="id")
        return embed_source(client, source, self.out, **options)

    def check(self, rows):
        """The folder holds these rows, and their vectors."""
        made = np.load(self.out / "embeddings.npy", mmap_mode="r")
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, [vector_of(row["text"]) for row in rows])
        said = json.loads((self.out / "metadata.json").read_text())
        assert said == [{**row, "embedding_index": n} for n, row in enumerate(rows)]
        assert Manifest.load(self.out).count == len(rows)
        assert sorted(path.name for path in self.out.iterdir()) == [
            "embeddings.npy",
            "failed.json",
            "manifest.json",
            "metadata.json",
            "work",
        ]


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def test_rows_in_vectors_and_rows_out(corpus):
    made = corpus.run()
    assert (made.count, made.failed, made.sent, made.dimension) == (10, 0, 10, D)
    corpus.check(ROWS)
    manifest = Manifest.load(corpus.out)
    assert (manifest.profile, manifest.id_field, manifest.kind) == ("sha256:a", "id", "npy")
    assert read_failures(corpus.out) == []


def test_run_again_only_what_is_new_is_sent(corpus):
    corpus.run()
    before = (corpus.out / "embeddings.npy").stat().st_mtime_ns
    made = corpus.run()
    assert (made.unchanged, made.sent, corpus.sent) == (True, 0, [])
    assert (corpus.out / "embeddings.npy").stat().st_mtime_ns == before
    rows = [{"id": 77, "text": "new", "kind": "x"}, *ROWS[::-1], {"id": 78, "text": "newer"}]
    corpus.write(rows)
    assert corpus.run().sent == 2
    assert corpus.sent == ["new", "newer"]
    corpus.check(rows)
    corpus.write([{**row, "kind": "changed"} for row in ROWS[:3]])
    made = corpus.run()
    assert (made.sent, made.unchanged) == (0, False), "metadata is written, nothing is sent"
    corpus.check([{**row, "kind": "changed"} for row in ROWS[:3]])
    assert corpus.run(again=True).sent == 3
    assert corpus.run("<{text}>").sent == 3


def test_pictures_that_fail_are_told_and_left_out(tmp_path):
    corpus = Corpus(tmp_path)
    for name in ("a", "broken", "b", "busy"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    names = ["gone", "a", "broken", "gone2", "b", "busy", "gone3"]
    corpus.write(
        [{"crop_path": f"{name}.jpg", "id": name, "damage_type": "dent"} for name in names]
    )
    corpus.server.errors = {
        b"broken": InvalidInputError("not a picture", field="image[0]"),
        b"busy": InternalError("a fault"),
    }
    made = corpus.run(None)
    assert (made.count, made.failed, made.sent) == (2, 5, 4)
    failures = read_failures(corpus.out)
    assert [(row["where"], row["id"]) for row in failures] == [
        ("row 1", "gone"),
        ("row 3", "broken"),
        ("row 4", "gone2"),
        ("row 6", "busy"),
        ("row 7", "gone3"),
    ]
    assert failures[1]["path"] == str(tmp_path / "broken.jpg")
    assert failures[1]["error"] == "image[0]: not a picture"
    assert "No such file" in failures[0]["error"]
    rows = json.loads((corpus.out / "metadata.json").read_text())
    assert [row["crop_path"] for row in rows] == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal(
        np.load(corpus.out / "embeddings.npy"), [vector_of(b"a"), vector_of(b"b")]
    )
    # What the server refused is asked for again only when it has changed; the rest each time.
    (tmp_path / "gone.jpg").write_bytes(b"gone")
    del corpus.server.errors[b"busy"]
    made = corpus.run(None)
    assert sorted(corpus.sent) == [b"busy", b"gone"]
    assert (made.count, made.failed, made.sent) == (4, 3, 2)
    (tmp_path / "broken.jpg").write_bytes(b"mended")
    corpus.run(None)
    assert corpus.sent == [b"mended"]


def test_a_picture_too_large_is_not_even_read(tmp_path, monkeypatch):
    corpus = Corpus(tmp_path)
    monkeypatch.setattr("lensemble_contract.contract.MAX_IMAGE_BYTES", 4)
    (tmp_path / "large.jpg").write_bytes(b"12345")
    corpus.write([{"crop_path": "large.jpg", "id": 1}])
    made = corpus.run(None)
    assert (made.count, made.failed, corpus.sent) == (0, 1, [])
    assert read_failures(corpus.out)[0]["error"] == "image[0]: 5 bytes; at most 4"
    assert not (corpus.out / "manifest.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        NotReadyError("gone"),
        InvalidInputError("9; profile 'x' gives 64 to 192", field="dimensions"),
    ],
)
def test_what_every_row_would_meet_ends_the_run_and_keeps_what_was_made(corpus, error):
    corpus.write([*ROWS[:3], {"id": "x", "text": "bad"}, *ROWS[3:]])
    corpus.server.errors = {"bad": error}
    with pytest.raises(type(error)):
        corpus.run(template="{text}", concurrency=1)
    if not isinstance(error, NotReadyError):  # its request holds all the rows
        assert sorted(corpus.sent) == [row["text"] for row in ROWS]
    corpus.write(ROWS)
    corpus.run()
    corpus.check(ROWS)


def test_vectors_of_another_profile_are_refused(corpus):
    corpus.run()
    corpus.server.profile = "sha256:b"
    assert corpus.run().unchanged, "nothing is sent, so nothing can differ"
    corpus.write([*ROWS, {"id": "new", "text": "new"}])
    with pytest.raises(InvalidInputError, match=r"^profile: .*sha256:b.*sha256:a.*--again"):
        corpus.run()
    with pytest.raises(InvalidInputError, match=r"^dimensions: .*full.*'native' and 64"):
        corpus.run(dimensions=64)
    assert Manifest.load(corpus.out).count == 10
    assert corpus.run(again=True).sent == 11
    assert Manifest.load(corpus.out).profile == "sha256:b"


def test_profile_that_changes_midway_ends_the_run(corpus, monkeypatch):
    monkeypatch.setattr(module, "_AT_A_TIME", 3)
    infer, calls = corpus.transport.infer, []

    def changing(*args):
        calls.append(args)
        corpus.server.profile = "sha256:a" if len(calls) < 3 else "sha256:b"
        return infer(*args)

    monkeypatch.setattr(corpus.transport, "infer", changing)
    with pytest.raises(InvalidInputError, match="sha256:b"):
        corpus.run()
    assert not (corpus.out / "manifest.json").exists()
    with Journal(corpus.out / "work") as journal:
        assert (journal.making.profile, journal._count) == ("sha256:a", 6)


def test_foreign_folders_and_second_processes_are_refused(corpus, tmp_path):
    corpus.out.mkdir()
    (corpus.out / "mine.txt").touch()
    with pytest.raises(InvalidInputError, match=r"holds something else \(mine.txt\)"):
        corpus.run()
    (corpus.out / "mine.txt").unlink()
    with Journal(corpus.out / "work"), pytest.raises(InvalidInputError, match="another process"):
        corpus.run()
    corpus.run()
    corpus.check(ROWS)
    (tmp_path / "file").touch()
    corpus.out = tmp_path / "file"
    with pytest.raises(InvalidInputError, match="is not a folder"):
        corpus.run()


def test_journal_cut_anywhere_is_taken_up(tmp_path, monkeypatch):
    """Every length of either file that a killed process, or a lost page, may leave."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    digests = [bytes([n]) * 16 for n in range(4)]
    with Journal(tmp_path / "whole") as journal:
        journal.begin(Making("p", D, None, "native"))
        for n, digest in enumerate(digests[:3]):
            journal.add(digest, vector_of(str(n)))
        journal.refuse(digests[3], InvalidInputError("bad", field="text"))
    done = (tmp_path / "whole" / DONE).read_bytes()
    vectors = (tmp_path / "whole" / VECTORS).read_bytes()
    settings = (tmp_path / "whole" / "settings.json").read_bytes()
    ends = np.cumsum([len(line) for line in done.splitlines(keepends=True)])
    folder = tmp_path / "cut"
    folder.mkdir()
    cuts = [(n, len(vectors)) for n in range(len(done) + 1)]
    cuts += [(len(done), n) for n in range(len(vectors) + 1)]
    for in_done, in_vectors in cuts:
        (folder / DONE).write_bytes(done[:in_done])
        (folder / VECTORS).write_bytes(vectors[:in_vectors])
        (folder / "settings.json").write_bytes(settings)
        lines = min(int((ends <= in_done).sum()), in_vectors // (4 * D) if in_vectors < 48 else 4)
        kept = min(lines, 3)
        with Journal(folder) as journal:
            found = [journal.find(digest) for digest in digests]
            assert found[:3] == [n if n < kept else None for n in range(3)]
            assert isinstance(found[3], InvalidInputError if lines == 4 else type(None))
            assert journal.add(b"x" * 16, vector_of("x")) == kept
        with Journal(folder) as journal:
            assert journal.find(b"x" * 16) == kept
            places = journal_module.array("q", [kept, *range(kept)])
            (read,) = journal.read(places)
            np.testing.assert_array_equal(
                read, [vector_of("x"), *(vector_of(str(n)) for n in range(kept))]
            )


def test_a_damaged_vector_is_made_again(corpus):
    corpus.run()
    path = corpus.out / "work" / VECTORS
    blob = bytearray(path.read_bytes())
    blob[4 * D * 3 + 2] ^= 1
    path.write_bytes(blob)
    assert corpus.run().sent == 1
    corpus.check(ROWS)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_killed_at_any_sync_the_next_run_goes_on(corpus, monkeypatch, kind):
    """A process that ends at its n-th sync, without a word; then another finishes the work."""
    monkeypatch.setattr(journal_module, "_SYNC_ROWS", 3)
    monkeypatch.setattr(module, "_AT_A_TIME", 4)
    corpus.run()
    rows = [*ROWS[5:], *({"id": n, "text": f"more {n}", "kind": "new"} for n in range(8))]
    deaths = 0
    while True:
        corpus.write(ROWS)
        corpus.run(again=True, kind="npy")
        corpus.write(rows)
        if not dies(lambda: corpus.run(kind=kind), at=deaths + 1):
            break
        deaths += 1
        named = {path.name for path in corpus.out.iterdir()}
        if "manifest.json" in named:  # one that says it is finished is so, as of before or after
            manifest = Manifest.load(corpus.out)
            assert len([*read_rows(corpus.out, manifest)]) == manifest.count
        made = corpus.run(kind=kind)
        assert made.count == len(rows)
        assert made.sent <= 8
        if deaths > 8:
            assert made.sent < 8, "some of it was kept"
        if kind == "npy":
            corpus.check(rows)
    assert deaths > 12


def dies(work, at):
    """Whether a child that does the work ends at its n-th sync."""
    child = os.fork()
    if child == 0:
        fsync, calls = os.fsync, []

        def dying(descriptor):
            calls.append(descriptor)
            if len(calls) == at:
                os._exit(9)
            fsync(descriptor)

        os.fsync = dying
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return status != 0


def test_full_disk_is_said_and_what_was_synced_is_kept(corpus, monkeypatch):
    monkeypatch.setattr(journal_module, "_SYNC_ROWS", 3)
    calls = []
    fsync = os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 8:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        corpus.run()
    monkeypatch.setattr(os, "fsync", fsync)
    assert 0 < corpus.run().sent < 10
    corpus.check(ROWS)


def test_parquet_has_rows_and_vectors_in_columns(corpus, monkeypatch):
    from lensemble_corpus import parquet

    monkeypatch.setattr(parquet, "_AT_A_TIME", 3)
    rows = [
        {"id": 1, "text": "a", "n": 1, "mixed": "x", "nested": {"a": 1}, "none": None},
        {"id": 2, "text": "b", "n": 2, "mixed": 3, "empty": {}, "embedding": "theirs"},
        {"id": 3, "text": "c", "n": 2.5, "list": ["p", "q"]},
        {"id": 4, "text": "d", "late": True, "mixed": ["é"]},
    ]
    corpus.write(rows)
    corpus.run()
    corpus.run(kind="parquet")
    assert {path.name for path in corpus.out.iterdir()} == {
        "embeddings.parquet",
        "failed.json",
        "manifest.json",
        "work",
    }
    table = pq.read_table(corpus.out / "embeddings.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), D)
    assert table.column("n").to_pylist() == [1, 2, 2.5, None]
    assert table.column("mixed").to_pylist() == ["x", "3", None, '["é"]']
    assert table.column("late").to_pylist() == [None, None, None, True]
    assert table.column("nested").to_pylist() == [{"a": 1}, None, None, None]
    assert table.column("empty").to_pylist() == [None, "{}", None, None]
    assert table.column("embedding_index").to_pylist() == [0, 1, 2, 3]
    expected = [vector_of(row["text"]) for row in rows]
    np.testing.assert_array_equal(
        np.array(table.column("embedding").to_pylist(), np.float32), expected
    )
    np.testing.assert_array_equal(
        np.concatenate(list(parquet.vectors(corpus.out / "embeddings.parquet"))), expected
    )
    manifest = Manifest.load(corpus.out)
    assert [row["id"] for row in read_rows(corpus.out, manifest)] == [1, 2, 3, 4]
    assert index_embeddings(corpus.out, corpus.out.parent / "index") == 4
    assert corpus.run(kind="parquet").unchanged


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """100,000 rows: what is held are places and digests, not rows (61 MB) or vectors (51 MB)."""
    corpus = Corpus(tmp_path)
    corpus.path = tmp_path / "rows.jsonl"
    filling = "x" * 560
    with corpus.path.open("w") as file:
        file.writelines(f'{{"id": {n}, "filling": "{filling}"}}\n' for n in range(100_000))
    most, vectors = [0], np.full((32, 128), 128**-0.5, np.float32)

    def infer(model, rows, parameters, timeout_s):
        count = len(rows["text"])
        most[0] = max(most[0], anonymous_bytes())
        times = [tensor.name for tensor in model.outputs if "_ms" in tensor.name]
        return {
            "embedding": vectors[:count].copy(),
            "profile": np.full((count, 1), b"p", np.object_),
            "tokens": np.ones((count, 1), np.int32),
            **{name: np.ones((count, 1)) for name in times},
        }

    corpus.transport.infer = infer
    before = anonymous_bytes()
    made = corpus.run("{id}", concurrency=4)
    assert (made.count, made.sent) == (100_000, 100_000)
    assert max(most[0], anonymous_bytes()) - before < 45e6
    assert np.load(corpus.out / "embeddings.npy", mmap_mode="r").shape == (100_000, 128)


def anonymous_bytes():
    """Memory of this process that is no mapped file."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().split("\n") if "RssAnon" in line
    )
    return int(line.split()[1]) * 1024


def test_index_needs_ids_that_differ(corpus, tmp_path):
    corpus.write([*ROWS, {**ROWS[3], "text": "other", "plate": "x"}])
    corpus.run()
    with pytest.raises(InvalidInputError, match=r"^id: '3' stands twice, in rows 3 and 10"):
        index_embeddings(corpus.out, tmp_path / "index")
    with pytest.raises(InvalidInputError, match=r"^plate: row 0 has None"):
        index_embeddings(corpus.out, tmp_path / "index", id_field="plate")
    assert index_embeddings(corpus.out, tmp_path / "index", id_field="embedding_index") == 11
    (corpus.out / "manifest.json").unlink()
    with pytest.raises(InvalidInputError, match="not a finished folder of embeddings"):
        index_embeddings(corpus.out, tmp_path / "index2")


def test_index_does_not_fit_a_folder_that_was_cut(corpus, tmp_path):
    corpus.run()
    np.save(corpus.out / "embeddings.npy", np.ones((3, D), np.float32))
    with pytest.raises(InvalidInputError, match="3 vectors and 10 rows"):
        index_embeddings(corpus.out, tmp_path / "index")
    np.save(corpus.out / "embeddings.npy", np.ones((10, D), np.float64))
    with pytest.raises(InvalidInputError, match="float64"):
        index_embeddings(corpus.out, tmp_path / "index")
