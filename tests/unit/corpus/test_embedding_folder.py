"""The folder of embeddings: what a run writes, sends again, and refuses."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensemble_client import InternalError, InvalidInputError, NotReadyError
from lensemble_corpus import embedding_run, parquet_files
from lensemble_corpus.embeddings_manifest import EmbeddingsManifest, read_failures, read_rows
from lensemble_corpus.journal import Journal
from tests.embedded_corpus import ROWS, D, EmbeddedCorpus, vector_of


@pytest.fixture
def corpus(tmp_path):
    return EmbeddedCorpus(tmp_path)


def test_rows_become_vectors_and_metadata(corpus):
    summary = corpus.run()
    assert (summary.count, summary.failed, summary.sent, summary.dimension) == (10, 0, 10, D)
    corpus.check(ROWS)
    manifest = EmbeddingsManifest.load(corpus.out)
    assert (manifest.profile, manifest.id_field, manifest.kind) == ("sha256:a", "id", "npy")
    assert read_failures(corpus.out) == []


def test_a_second_run_sends_only_new_rows(corpus):
    corpus.run()
    before = (corpus.out / "embeddings.npy").stat().st_mtime_ns
    summary = corpus.run()
    assert (summary.unchanged, summary.sent, corpus.sent) == (True, 0, [])
    assert (corpus.out / "embeddings.npy").stat().st_mtime_ns == before
    rows = [{"id": 77, "text": "new", "kind": "x"}, *ROWS[::-1], {"id": 78, "text": "newer"}]
    corpus.write(rows)
    assert corpus.run().sent == 2
    assert corpus.sent == ["new", "newer"]
    corpus.check(rows)
    corpus.write([{**row, "kind": "changed"} for row in ROWS[:3]])
    summary = corpus.run()
    assert (summary.sent, summary.unchanged) == (0, False), (
        "the metadata is written without sending a row"
    )
    corpus.check([{**row, "kind": "changed"} for row in ROWS[:3]])
    assert corpus.run(again=True).sent == 3
    assert corpus.run("<{text}>").sent == 3


def test_rows_that_fail_are_left_out_and_listed(tmp_path):
    corpus = EmbeddedCorpus(tmp_path)
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
    summary = corpus.run(None)
    assert (summary.count, summary.failed, summary.sent) == (2, 5, 4)
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
    # A row that the server refused is sent again only after a change. Other failed rows are sent
    # again in any case.
    (tmp_path / "gone.jpg").write_bytes(b"gone")
    del corpus.server.errors[b"busy"]
    summary = corpus.run(None)
    assert sorted(corpus.sent) == [b"busy", b"gone"]
    assert (summary.count, summary.failed, summary.sent) == (4, 3, 2)
    (tmp_path / "broken.jpg").write_bytes(b"mended")
    corpus.run(None)
    assert corpus.sent == [b"mended"]


def test_a_picture_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    corpus = EmbeddedCorpus(tmp_path)
    monkeypatch.setattr("lensemble_contract.contract.MAX_IMAGE_BYTES", 4)
    (tmp_path / "large.jpg").write_bytes(b"12345")
    corpus.write([{"crop_path": "large.jpg", "id": 1}])
    summary = corpus.run(None)
    assert (summary.count, summary.failed, corpus.sent) == (0, 1, [])
    assert read_failures(corpus.out)[0]["error"] == "image[0]: 5 bytes; at most 4"
    assert not (corpus.out / "manifest.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        NotReadyError("gone"),
        InvalidInputError("9; profile 'x' gives 64 to 192", field="dimensions"),
    ],
)
def test_an_error_of_every_row_ends_the_run_and_keeps_vectors(corpus, error):
    corpus.write([*ROWS[:3], {"id": "x", "text": "bad"}, *ROWS[3:]])
    corpus.server.errors = {"bad": error}
    with pytest.raises(type(error)):
        corpus.run(template="{text}", concurrency=1)
    if not isinstance(error, NotReadyError):  # after that error, rows are not sent one by one
        assert sorted(corpus.sent) == [row["text"] for row in ROWS]
    corpus.write(ROWS)
    corpus.run()
    corpus.check(ROWS)


def test_vectors_of_another_profile_are_refused(corpus):
    corpus.run()
    corpus.server.profile = "sha256:b"
    with pytest.raises(InvalidInputError, match=r"^profile: .*sha256:b.*sha256:a.*--again"):
        corpus.run()  # no row is left to send, and still the vectors are of another profile
    corpus.write([{"id": "gone", "text": ""}])
    with pytest.raises(InvalidInputError, match=r"^profile: .*sha256:b.*sha256:a"):
        corpus.run()  # no row can be embedded
    corpus.write([*ROWS, {"id": "new", "text": "new"}])
    with pytest.raises(InvalidInputError, match=r"^profile: .*sha256:b.*sha256:a.*--again"):
        corpus.run()
    with pytest.raises(
        InvalidInputError, match=r"^dimensions: .*full, .*'native' with dimensions 64"
    ):
        corpus.run(dimensions=64)
    assert EmbeddingsManifest.load(corpus.out).count == 10
    assert corpus.run(again=True).sent == 11
    assert EmbeddingsManifest.load(corpus.out).profile == "sha256:b"


def test_a_row_that_fails_does_not_show_the_profile(corpus):
    corpus.write([*ROWS, {"id": "x", "text": "busy"}])
    corpus.server.errors = {"busy": InternalError("a fault")}
    assert corpus.run().failed == 1
    corpus.server.profile = "sha256:b"
    with pytest.raises(InvalidInputError, match=r"^profile: .*sha256:b.*sha256:a"):
        corpus.run()


def test_a_finished_folder_with_a_damaged_file_is_written_again(corpus):
    corpus.run()
    for name in ("embeddings.npy", "metadata.json", "failed.json", "digests.txt"):
        path = corpus.out / name
        path.write_bytes(path.read_bytes()[:-1])
        summary = corpus.run()
        assert (summary.unchanged, summary.sent) == (False, 0), name
        corpus.check(ROWS)
    data = bytearray((corpus.out / "embeddings.npy").read_bytes())
    data[-1] ^= 1  # a file of the same size is only compared if the caller doubts it
    (corpus.out / "embeddings.npy").write_bytes(data)
    assert corpus.run(again=True).unchanged is False
    corpus.check(ROWS)


def test_a_run_without_vectors_leaves_none_of_an_earlier_run(corpus):
    corpus.run()
    corpus.write([{"id": 1, "text": ""}])
    summary = corpus.run()
    assert (summary.count, summary.failed) == (0, 1)
    assert [row["id"] for row in read_failures(corpus.out)] == ["1"]
    assert {path.name for path in corpus.out.iterdir()} == {"failed.json", "work"}
    corpus.write(ROWS)
    assert corpus.run().sent == 0, "the vectors are still in the journal"
    corpus.check(ROWS)


def test_a_profile_that_changes_during_a_run_ends_it(corpus, monkeypatch):
    monkeypatch.setattr(embedding_run, "_BLOCK_ROWS", 3)
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
        assert (journal.settings.profile, len(journal)) == ("sha256:a", 6)


def test_other_folders_and_second_processes_are_refused(corpus, tmp_path):
    corpus.out.mkdir()
    (corpus.out / "mine.txt").touch()
    with pytest.raises(InvalidInputError, match=r"contains other files \(mine.txt\)"):
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


def test_parquet_has_rows_and_vectors_in_columns(corpus, monkeypatch):
    monkeypatch.setattr(parquet_files, "_BATCH_ROWS", 3)
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
        "digests.txt",
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
        np.concatenate(list(parquet_files.read_vectors(corpus.out / "embeddings.parquet"))),
        expected,
    )
    manifest = EmbeddingsManifest.load(corpus.out)
    assert [row["id"] for row in read_rows(corpus.out, manifest)] == [1, 2, 3, 4]
    assert corpus.run(kind="parquet").unchanged
