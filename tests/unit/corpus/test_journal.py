"""The journal of embedded items: interruptions, damage, other formats."""

import os
import shutil
import sqlite3
from array import array

import numpy as np
import pytest

from lensemble_client import InvalidInputError, StorageError
from lensemble_corpus import journal as journal_module
from lensemble_corpus.journal import Journal, VectorSettings
from lensemble_corpus.journal_database import FILE
from tests.embedded_corpus import ROWS, D, EmbeddedCorpus, vector_of

DIGESTS = [bytes([n]) * 16 for n in range(4)]


@pytest.fixture
def corpus(tmp_path):
    return EmbeddedCorpus(tmp_path)


def test_a_journal_cut_anywhere_holds_all_rows_of_some_commits(tmp_path):
    """The log of the database is cut after any number of bytes, as after a crash."""
    with Journal(tmp_path / "whole") as journal:
        journal.begin(VectorSettings("p", D, None, "native"))
        ends = []  # length of the log after each commit
        for n, digest in enumerate(DIGESTS):
            if n < 3:
                journal.add(digest, vector_of(str(n)))
            else:
                journal.refuse(digest, InvalidInputError("bad", field="text"))
            journal.commit()
            ends.append((tmp_path / "whole" / f"{FILE}-wal").stat().st_size)
        shutil.copytree(tmp_path / "whole", tmp_path / "crashed")
    log = (tmp_path / "crashed" / f"{FILE}-wal").read_bytes()
    assert len(log) == ends[-1]
    # Every 1,999 bytes, and around the end of each commit.
    cuts = {*range(0, len(log), 1999), *(end + shift for end in ends for shift in (-1, 0))}
    seen = set()
    for length in sorted(cuts):
        folder = tmp_path / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(tmp_path / "crashed" / FILE, folder)
        (folder / f"{FILE}-wal").write_bytes(log[:length])
        committed = sum(end <= length for end in ends)
        kept = min(committed, 3)
        seen.add(committed)
        with Journal(folder) as journal:
            outcomes = [journal.find(digest) for digest in DIGESTS]
            assert [outcome is not None for outcome in outcomes] == [
                n < committed for n in range(4)
            ]
            assert isinstance(outcomes[3], InvalidInputError) == (committed == 4)
            assert len(journal) == kept
            if journal.settings is None:
                assert kept == 0
                journal.begin(VectorSettings("p", D, None, "native"))
            new = journal.add(b"x" * 16, vector_of("x"))
        with Journal(folder) as journal:
            assert journal.find(b"x" * 16) == new
            (vectors,) = journal.read(array("q", [new, *outcomes[:kept]]))
            expected = [vector_of("x"), *(vector_of(str(n)) for n in range(kept))]
            np.testing.assert_array_equal(vectors, expected)
    assert seen == {0, 1, 2, 3, 4}


def test_a_damaged_vector_is_made_again(corpus):
    corpus.run()
    path = corpus.out / "work" / FILE
    content = bytearray(path.read_bytes())
    content[content.index(vector_of("text 3").tobytes()) + 2] ^= 1
    path.write_bytes(content)
    assert corpus.run().sent == 1
    corpus.check(ROWS)
    assert corpus.run().sent == 0


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(8176)])
def test_a_damaged_database_is_named_and_can_be_replaced(corpus, content):
    corpus.run()
    (corpus.out / "work" / FILE).write_bytes(content)
    with pytest.raises(StorageError, match=rf"{FILE}' is damaged .*--again"):
        corpus.run()
    assert corpus.run(again=True).sent == 10
    corpus.check(ROWS)


def test_a_damaged_page_is_named(corpus):
    corpus.write([{"id": n, "text": f"text {n}"} for n in range(400)])
    corpus.run()
    path = corpus.out / "work" / FILE
    content = bytearray(path.read_bytes())
    assert len(content) > 8 * 4096
    content[2 * 4096 :] = bytes(len(content) - 2 * 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"{FILE}' is damaged .*--again"):
        corpus.run()
    assert corpus.run(again=True).sent == 400


def test_other_formats_are_refused_and_can_be_replaced(corpus):
    corpus.run()
    with sqlite3.connect(corpus.out / "work" / FILE) as database:
        database.execute("PRAGMA user_version = 3")
    database.close()
    with pytest.raises(InvalidInputError, match=r"has format 3, expected 2; .*--again"):
        corpus.run()
    assert corpus.run(again=True).sent == 10


def test_a_folder_of_an_earlier_version_is_refused_and_can_be_replaced(corpus):
    work = corpus.out / "work"
    work.mkdir(parents=True)
    for name in ("vectors.f32", "done.jsonl", "settings.json", "lock"):
        (work / name).touch()
    with pytest.raises(InvalidInputError, match=r"vectors.f32'.*earlier version.*--again"):
        corpus.run()
    assert (work / "done.jsonl").exists()
    assert corpus.run(again=True).sent == 10
    corpus.check(ROWS)
    assert [path.name for path in work.iterdir()] == [FILE]


def test_a_journal_in_use_is_not_replaced(corpus):
    corpus.run()
    with Journal(corpus.out / "work"), pytest.raises(InvalidInputError, match="another process"):
        corpus.run(again=True)
    assert corpus.run().sent == 0


def test_a_full_disk_is_reported_and_committed_rows_are_kept(corpus, monkeypatch):
    monkeypatch.setattr(journal_module, "_COMMIT_ROWS", 3)
    add = Journal.add
    added = []

    def add_until_full(journal, digest, vector):
        if len(added) == 8:
            (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
            journal._database.execute(f"PRAGMA max_page_count = {pages}")
            vector = np.zeros(100_000, np.float32)
        added.append(digest)
        return add(journal, digest, vector)

    monkeypatch.setattr(Journal, "add", add_until_full)
    with pytest.raises(StorageError, match="is full"):
        corpus.run()
    monkeypatch.setattr(Journal, "add", add)
    assert corpus.run().sent == 2, "the 8 rows before the failure are kept"
    corpus.check(ROWS)


def test_a_disk_that_fails_while_files_are_written_is_reported(corpus, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="No space left"):
            corpus.run()
    assert corpus.run().sent == 0
    corpus.check(ROWS)
