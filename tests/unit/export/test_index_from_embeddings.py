"""An index that is built from a folder of embeddings, without a server."""

import numpy as np
import pytest

from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.store import Store
from lensemble_cli.main import main
from lensemble_client import Client, InvalidInputError
from lensemble_client.testing import FakeServer, FakeTransport
from lensemble_corpus.source import Source
from lensemble_corpus.sync.table_sync import sync_table
from lensemble_export.index_from_embeddings import index_embeddings
from tests.embedded_corpus import ROWS, D, EmbeddedCorpus, vector_of
from tests.stages_transport import LENGTH, PROFILE, StagesTransport


@pytest.fixture
def corpus(tmp_path):
    return EmbeddedCorpus(tmp_path)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_every_row_becomes_an_item(corpus, tmp_path, kind):
    corpus.run(kind=kind)
    assert index_embeddings(corpus.out, tmp_path / "index") == 10


def test_an_index_with_items_is_not_replaced_without_a_word(corpus, tmp_path, capsys):
    corpus.run()
    index = tmp_path / "index"
    command = ["corpus", "index", str(corpus.out), str(index)]
    assert main(command) == 0
    with Store.open(index) as store:
        store.write([Upsert("live", vector_of("live"))])
    capsys.readouterr()
    assert main(command) == 1
    assert "is an index of 11 items, with the writes up to number 11" in capsys.readouterr().err
    with Store.open(index) as store:
        assert store.live_rows(["live"])
    assert main([*command, "--replace"]) == 0
    assert f"kept in {index}.old" in capsys.readouterr().out
    with Store.open(index) as store, Store.open(tmp_path / "index.old") as old:
        assert (len(store), len(old)) == (10, 11)


def test_an_index_from_embeddings_can_follow_its_table(tmp_path):
    """What `corpus embed` has embedded, `corpus sync` does not embed again."""
    corpus = EmbeddedCorpus(tmp_path)
    corpus.server = FakeServer(dimension=LENGTH, profile=PROFILE.hash)
    corpus.transport = FakeTransport(corpus.server)
    corpus.run()
    index_embeddings(corpus.out, tmp_path / "index")
    with Client(transport=StagesTransport(tmp_path / "index")) as client:

        def sync():
            source = Source(corpus.path, text="{text}", id_field="id")
            counts = sync_table(client, source).counts
            return {str(outcome): count for outcome, count in counts.items()}

        assert sync() == {"unchanged": 10}
        assert client.stats()["sequence"] == 10
        corpus.write([{**ROWS[0], "kind": "new"}, *ROWS[1:7], {**ROWS[7], "text": "other"}])
        assert sync() == {
            "document changed": 1,
            "unchanged": 6,
            "embedded again": 1,
            "removed": 2,
        }
        assert client.get("0").document == {**ROWS[0], "kind": "new"}
        assert sync() == {"unchanged": 8}
        hits = client.search("other", top_k=1)
        assert hits[0].id == "7"


def test_ids_must_be_unique(corpus, tmp_path):
    corpus.write([*ROWS, {**ROWS[3], "text": "other", "plate": "x"}])
    corpus.run()
    with pytest.raises(InvalidInputError, match=r"^id: '3' is the id of rows 4 and 11 of"):
        index_embeddings(corpus.out, tmp_path / "index")
    with pytest.raises(InvalidInputError, match=r"^plate: row 1 has None"):
        index_embeddings(corpus.out, tmp_path / "index", id_field="plate")
    assert index_embeddings(corpus.out, tmp_path / "index", id_field="embedding_index") == 11


def test_an_unfinished_folder_is_refused(corpus, tmp_path):
    corpus.run()
    (corpus.out / "manifest.json").unlink()
    with pytest.raises(InvalidInputError, match="this folder of embeddings is not finished"):
        index_embeddings(corpus.out, tmp_path / "index")


def test_vectors_that_do_not_fit_the_rows_are_refused(corpus, tmp_path):
    corpus.run()
    np.save(corpus.out / "embeddings.npy", np.ones((3, D), np.float32))
    with pytest.raises(InvalidInputError, match="3 vectors and 10 rows"):
        index_embeddings(corpus.out, tmp_path / "index")
    np.save(corpus.out / "embeddings.npy", np.ones((10, D), np.float64))
    with pytest.raises(InvalidInputError, match="float64"):
        index_embeddings(corpus.out, tmp_path / "index")
