"""`embed_source` is killed at any flush to the disk, and the next run continues the work."""

import os
import shutil

import pytest

from lensemble_corpus import embedding_run
from lensemble_corpus import journal as journal_module
from lensemble_corpus.embeddings_manifest import EmbeddingsManifest, read_rows
from lensemble_corpus.journal import Journal
from tests.embedded_corpus import ROWS, EmbeddedCorpus


@pytest.fixture
def corpus(tmp_path):
    return EmbeddedCorpus(tmp_path)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_after_a_kill_at_any_flush_the_next_run_continues(corpus, tmp_path, monkeypatch, kind):
    """A first process is killed at its n-th flush to the disk. A second one finishes the work."""
    monkeypatch.setattr(journal_module, "_COMMIT_ROWS", 3)
    monkeypatch.setattr(embedding_run, "_BLOCK_ROWS", 4)
    corpus.run()
    before = shutil.copytree(corpus.out, tmp_path / "before")
    rows = [*ROWS[5:], *({"id": n, "text": f"more {n}", "kind": "new"} for n in range(8))]
    corpus.write(rows)
    kills = 0
    while True:
        shutil.rmtree(corpus.out)
        shutil.copytree(before, corpus.out)
        if not is_killed(lambda: corpus.run(kind=kind), at=kills + 1):
            break
        kills += 1
        # A folder with a manifest is complete, with the old or the new content.
        if (corpus.out / "manifest.json").exists():
            manifest = EmbeddingsManifest.load(corpus.out)
            assert len([*read_rows(corpus.out, manifest)]) == manifest.count
        summary = corpus.run(kind=kind)
        assert summary.count == len(rows)
        # The first two commits have 3 rows each, the last one has the rest. A commit counts as two
        # flushes, one before it and one after it.
        assert summary.sent == {0: 8, 1: 5, 2: 2}.get(kills // 2, 0)
        if kind == "npy":
            corpus.check(rows)
    assert kills > 10


def is_killed(work, at):
    """Runs `work` in a child process that is killed at its n-th flush; returns whether it was.

    Flushes are counted before each `os.fsync`, and before and after each commit of the journal.
    """
    child = os.fork()
    if child == 0:
        flushes = 0

        def count_flush():
            nonlocal flushes
            flushes += 1
            if flushes == at:
                os._exit(9)

        fsync, commit = os.fsync, Journal.commit

        def counting_fsync(descriptor):
            count_flush()
            fsync(descriptor)

        def counting_commit(journal):
            count_flush()
            commit(journal)
            count_flush()

        os.fsync, Journal.commit = counting_fsync, counting_commit
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return status != 0
