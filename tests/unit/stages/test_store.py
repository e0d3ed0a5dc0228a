"""The `store` and `faiss` stages by hand: operations, refusals, cut vectors, replaced indexes."""

import json

import numpy as np
import pytest

from lensemble.index.maintenance.backup import back_up, restore
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.search import SearchStage
from lensemble.stages.store import ReadOperation, StoreStage
from lensemble_client import InvalidInputError, NotReadyError, ReadOnlyError
from lensemble_contract.errors import StorageError


@pytest.fixture(scope="module")
def vectors():
    made = np.random.default_rng(0).standard_normal((20, 256)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def cut(vectors, length=64):
    return vectors[:, :length] / np.linalg.norm(vectors[:, :length], axis=1, keepdims=True)


@pytest.fixture
def settings(checkpoint, tmp_path):
    return Settings(checkpoint=checkpoint, index=tmp_path / "index", writes="on", compact_rows=0)


@pytest.fixture
def stages(settings):
    store, search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")
    yield store, search
    store.close()
    search.close()


def rows(ids, vectors=None, documents=None):
    return {
        "id": np.array([[id_.encode()] for id_ in ids], np.object_),
        "document": np.array([[one.encode()] for one in documents or [""] * len(ids)], np.object_),
        "embedding": np.empty((len(ids), 0), np.float32) if vectors is None else vectors,
    }


def ran(stage, given, **parameters):
    return stage.write(stage.run(stage.read(given, parameters)))


def test_operations_by_their_tensors(stages, vectors):
    store, search = stages
    documents = [json.dumps({"n": n}) for n in range(3)]
    written = ran(store, rows("abc", vectors[:3], documents))
    assert written["sequence"].tolist() == [[1], [2], [3]]
    assert (written["sequence"].dtype, written["stored_embedding"].shape) == (np.int64, (3, 0))
    got = ran(store, rows(["b", "nobody"]), operation="get")
    assert got["sequence"].tolist() == [[2], [0]]
    assert got["stored_document"].tolist() == [[b'{"n": 1}'], [b""]]
    assert np.array_equal(got["stored_embedding"], [vectors[1], np.zeros(256)])
    found = ran(search, {"embedding": vectors[1:2]}, filter='{"n": {"$gt": 0}}', top_k=5)
    assert found["ids"].tolist() == [[b"b", b"c"]]
    assert ran(store, rows(["b", "nobody"]), operation="delete")["sequence"].tolist() == [[4], [0]]
    assert ran(search, {"embedding": vectors[1:2]}, filter='{"n": 1}')["ids"].shape == (1, 0)
    stats = json.loads(ran(store, rows([""]), operation="stats")["stored_document"][0, 0])
    assert (stats["count"], stats["sequence"], stats["snapshot"]) == (2, 4, None)


def test_digest_stands_for_what_an_item_was_made_from(stages, vectors):
    store, _ = stages
    one = rows("a", vectors[:1])
    assert ran(store, one, digest="x")["sequence"].tolist() == [[1]]
    assert ran(store, rows("a"), operation="get")["stored_digest"].tolist() == [[b"x"]]
    # The same picture in another batch: a vector that differs in its last bits.
    again = rows("a", np.nextafter(vectors[:1], 1, dtype=np.float32))
    assert ran(store, again, digest="x")["sequence"].tolist() == [[1]]
    assert ran(store, again, digest="y")["sequence"].tolist() == [[2]]
    assert ran(store, one)["sequence"].tolist() == [[3]]
    with pytest.raises(InvalidInputError, match=r"digest: 'x' for 2 items; send one item"):
        store.read(rows("ab", vectors[:2]), {"digest": "x"})


@pytest.mark.parametrize(
    ("given", "parameters", "said"),
    [
        (rows("a"), {"operation": "drop"}, "operation: 'drop'; expected one of upsert, delete"),
        (rows("a"), {"operation": 3}, "operation: 3; expected a string"),
        (rows("a"), {"profile": "sha256:0"}, "profile: .*under sha256:0; they cannot be compared"),
    ],
)
def test_requests_at_fault_are_refused(stages, given, parameters, said):
    with pytest.raises(InvalidInputError, match=said):
        stages[0].read(given, parameters)


def test_rows_at_fault_are_refused_before_anything_is_written(stages, vectors):
    store, _ = stages
    bad = [
        rows([""], vectors[:1]),
        rows("a", vectors[:1], ["["]),
        rows("a", vectors[:1] * 2),
        rows("a", vectors[:1, :100]),
        {**rows("a", vectors[:1]), "id": np.array([[b"\xff"]], np.object_)},
        {**rows("a", vectors[:1]), "document": np.array([[b"\xff"]], np.object_)},
    ]
    fields = []
    for given in bad:
        (row,) = store.read(given, {})
        assert isinstance(row, InvalidInputError)
        fields.append(row.field)
    assert fields == ["id", "document", "embedding", "embedding", "id", "document"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"filter": "{"}, None),
        ({"filter": 3}, "filter: 3; expected a string"),
        ({"exclude": "[1]"}, "not a list of strings"),
        ({"exclude": "{"}, "expected the JSON text of a list"),
        ({"exclude": json.dumps(["x"] * 1001)}, "1001 strings; expected at most 1000"),
        ({"min_score": "high"}, "'high'; expected a finite number"),
        ({"min_score": True}, "True; expected a finite number"),
        ({"like": "a"}, "there is also a vector"),
        ({"profile": "sha256:0"}, "cannot be compared"),
    ],
)
def test_searches_at_fault_are_refused(stages, vectors, parameters, said):
    _, search = stages
    if said is None:  # known when the query runs; the query beside it is answered
        both = [*search.read({"embedding": vectors[:1]}, parameters)]
        both += search.read({"embedding": vectors[:1]}, {})
        refused, answered = search.run(both)
        assert isinstance(refused, InvalidInputError)
        assert answered == []
        return
    with pytest.raises(InvalidInputError, match=said):
        search.read({"embedding": vectors[:1]}, parameters)


def test_index_of_shorter_vectors_is_written_with_full_ones(settings, checkpoint, vectors):
    write_index(settings.index, Profile.load(checkpoint), cut(vectors[:2]), ["a", "b"], ["{}"] * 2)
    store, search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")
    ran(store, rows("c", vectors[2:3]))
    ran(store, rows("d", cut(vectors[3:4])), dimensions=64)
    for n, id_ in enumerate((b"a", b"b", b"c", b"d")):
        found = ran(search, {"embedding": vectors[n : n + 1]}, top_k=1)
        assert found["ids"].tolist() == [[id_]]
        assert found["scores"][0, 0] == pytest.approx(1, abs=1e-5)
    (refused,) = store.read(rows("e", vectors[:1]), {"dimensions": 256})
    assert "256 dimensions, the index 64" in str(refused)
    store.close()
    search.close()


def test_writes_are_off_unless_they_are_on(settings, checkpoint, vectors):

    off = settings.with_changes(writes="off")
    with pytest.raises(InvalidInputError, match=r"no store\.sqlite in .*index build"):
        StoreStage(off, "cpu")
    StoreStage(settings, "cpu").close()
    store = StoreStage(off, "cpu")
    for operation in ("upsert", "delete"):
        with pytest.raises(ReadOnlyError, match="takes no writes; start it with --writes"):
            store.read(rows("a", vectors[:1]), {"operation": operation})
    assert store.read(rows("a"), {"operation": "get"}) == [ReadOperation("get", "a")]
    store.close()
    nothing = StoreStage(Settings(checkpoint=checkpoint), "cpu")
    with pytest.raises(NotReadyError, match="no index is loaded"):
        nothing.read(rows("a"), {})
    nothing.close()


def test_both_go_over_to_an_index_that_was_put_in_place(stages, settings, vectors, tmp_path):
    store, search = stages
    ran(store, rows("a", vectors[:1]))
    back_up(settings.index, tmp_path / "backup")
    ran(store, rows("b", vectors[1:2]))
    restore(tmp_path / "backup", settings.index)
    assert ran(store, rows("b"), operation="get")["sequence"].tolist() == [[0]]
    ran(store, rows("c", vectors[2:3]))
    assert ran(search, {"embedding": vectors[2:3]}, top_k=5)["ids"].tolist()[0][0] == b"c"
    with Store.open(settings.index) as opened:
        assert set(opened.live_rows(["a", "b", "c"])) == {"a", "c"}


def test_a_store_that_fails_fails_the_calls_that_need_it(stages, settings, vectors):
    store, search = stages
    ran(store, rows("ab", vectors[:2]))
    with Store.open(settings.index) as other:
        other._connection.execute("UPDATE items SET document = '{\"n\": 9}' WHERE id = 'a'")
    damaged, whole = store.run([ReadOperation("get", "a"), ReadOperation("get", "b")])
    assert isinstance(damaged, StorageError)
    assert whole.sequence == 2
    (refused,) = search.run(search.read({"embedding": vectors[:1]}, {}))
    assert isinstance(refused, StorageError)
