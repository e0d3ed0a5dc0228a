"""The running server follows its index: the next search finds what another process committed."""

import shutil

import numpy as np
import pytest

from benchmarks.common.photos import PHOTOS, read_photo
from lensemble.index.maintenance.compact import compact
from lensemble.index.snapshots.manifest import SNAPSHOTS
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client
from lensemble_contract.errors import StorageError

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def live(checkpoint, index_folder, tmp_path_factory):
    """A server with its own copy of an index, which tests may write to."""
    folder = tmp_path_factory.mktemp("live") / "index"
    shutil.copytree(index_folder, folder)
    settings = Settings(checkpoint=checkpoint, index=folder, dtype="fp32")
    with TritonServer(settings) as server, Client(server.grpc_url) as client:
        yield folder, client


def first(client, text):
    (hit,) = client.search(text, top_k=1)
    return hit.id, hit.document


def test_committed_writes_are_found_by_the_next_search(live):
    folder, client = live
    with Store.open(folder) as store:
        for n in range(30):
            text = f"note number {n}"
            vector = client.embed(text)
            assert first(client, text)[0] != f"note/{n}"
            store.write([Upsert(f"note/{n}", vector, f'{{"n": {n}}}')])
            assert first(client, text) == (f"note/{n}", {"n": n})
            store.write([Upsert(f"note/{n}", vector, '{"n": "again"}')])
            assert first(client, text) == (f"note/{n}", {"n": "again"})
            store.write([Delete(f"note/{n}")])
            assert first(client, text)[0] != f"note/{n}"


def test_searches_go_on_while_snapshots_change(live):
    folder, client = live
    photo = read_photo("coffee.png")
    vectors = np.random.default_rng(0).standard_normal((20, client.embed("x").size))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    with Store.open(folder) as store:
        for n, vector in enumerate(vectors):
            store.write([Upsert("newest", vector, f'{{"n": {n}}}')])
            compact(folder)
            hits = {hit.id: hit for hit in client.search(image=photo, top_k=100)}
            assert hits.keys() == {*PHOTOS, "newest"}
            assert hits["newest"].document == {"n": n}
            assert hits["coffee.png"].score == pytest.approx(1, abs=1e-4)
        store.write([Delete("newest")])
        assert store.snapshot in {path.name for path in (folder / SNAPSHOTS).iterdir()}


def test_damaged_row_is_reported_to_the_caller_and_other_calls_are_answered(live):
    folder, client = live
    with Store.open(folder) as store:
        vector = client.embed("soon damaged")
        store.write([Upsert("bad", vector, '{"n": 1}')])
        assert first(client, "soon damaged")[0] == "bad"
        store._connection.execute("UPDATE items SET document = '{\"n\": 2}' WHERE id = 'bad'")
        with pytest.raises(StorageError, match=rf"{STORE_FILE}.*row \d+ is damaged"):
            first(client, "soon damaged")
        assert client.embed("anything").size == vector.size
        store.write([Delete("bad")])
        assert first(client, "soon damaged")[0] != "bad"
