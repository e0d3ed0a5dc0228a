"""The stages `store` and `faiss`, called directly: operations, errors, cut vectors, new indexes."""

import json

import numpy as np
import pytest

from lensemble.index.maintenance.backup import back_up, restore
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.search import SearchStage
from lensemble.stages.store import StoreStage
from lensemble.stages.store_rows import ReadOperation, StoreRow
from lensemble_client import InvalidInputError, NotReadyError, ReadOnlyError
from lensemble_contract.errors import StorageError
from tests.paths import CHECKPOINT


@pytest.fixture
def checkpoint():
    """The demo's checkpoint, because making the random one of other tests needs PyTorch."""
    return CHECKPOINT


@pytest.fixture(scope="module")
def vectors():
    drawn = np.random.default_rng(0).standard_normal((20, 192)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


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
    texts = documents or [""] * len(ids)
    return {
        "id": np.array([[id_.encode()] for id_ in ids], np.object_),
        "document": np.array([[text.encode()] for text in texts], np.object_),
        "embedding": np.empty((len(ids), 0), np.float32) if vectors is None else vectors,
    }


def run(stage, request_rows, **parameters):
    return stage.write(stage.run(stage.read(request_rows, parameters)))


def test_operations_on_the_index(stages, vectors):
    store, search = stages
    documents = [json.dumps({"n": n}) for n in range(3)]
    written = run(store, rows("abc", vectors[:3], documents))
    assert written["sequence"].tolist() == [[1], [2], [3]]
    assert (written["sequence"].dtype, written["stored_embedding"].shape) == (np.int64, (3, 0))
    read = run(store, rows(["b", "nobody"]), operation="get")
    assert read["sequence"].tolist() == [[2], [0]]
    assert read["stored_document"].tolist() == [[b'{"n": 1}'], [b""]]
    assert np.array_equal(read["stored_embedding"], [vectors[1], np.zeros(192)])
    hits = run(search, {"embedding": vectors[1:2]}, filter='{"n": {"$gt": 0}}', top_k=5)
    assert hits["ids"].tolist() == [[b"b", b"c"]]
    assert run(store, rows(["b", "nobody"]), operation="delete")["sequence"].tolist() == [[4], [0]]
    assert run(search, {"embedding": vectors[1:2]}, filter='{"n": 1}')["ids"].shape == (1, 0)
    stats = json.loads(run(store, rows([""]), operation="stats")["stored_document"][0, 0])
    assert (stats["count"], stats["sequence"], stats["snapshot"]) == (2, 4, None)


def test_upsert_with_the_same_digest_changes_nothing(stages, vectors):
    store, _ = stages
    item = rows("a", vectors[:1])
    assert run(store, item, digest="x")["sequence"].tolist() == [[1]]
    assert run(store, rows("a"), operation="get")["stored_digest"].tolist() == [[b"x"]]
    # The same picture in another batch: its vector differs in the last bits.
    again = rows("a", np.nextafter(vectors[:1], 1, dtype=np.float32))
    assert run(store, again, digest="x")["sequence"].tolist() == [[1]]
    assert run(store, again, digest="y")["sequence"].tolist() == [[2]]
    assert run(store, item)["sequence"].tolist() == [[3]]
    with pytest.raises(InvalidInputError, match=r"digest: 'x' for 2 items; send one item"):
        store.read(rows("ab", vectors[:2]), {"digest": "x"})


def carried(tokens, preprocess_ms, encode_ms):
    """What a request has that comes from `ingest`: figures of the steps before."""
    return {
        "carried_tokens": np.array(tokens, np.int32)[:, None],
        "carried_preprocess_ms": np.array(preprocess_ms, np.float32)[:, None],
        "carried_encode_ms": np.array(encode_ms, np.float32)[:, None],
    }


def test_figures_of_earlier_steps_go_through_the_store(stages, vectors):
    store, _ = stages
    request_rows = rows("ab", vectors[:2]) | carried([7, 9], [1.5, 1.5], [2.5, 2.5])
    written = run(store, request_rows)
    assert written["sequence"].tolist() == [[1], [2]]
    assert written["tokens"].tolist() == [[7], [9]]
    assert written["preprocess_ms"].tolist() == [[1.5], [1.5]]
    assert written["encode_ms"].tolist() == [[2.5], [2.5]]
    direct = run(store, rows("c", vectors[2:3]))
    assert (direct["tokens"].dtype, direct["tokens"].tolist()) == (np.int32, [[0]])
    assert (direct["encode_ms"].dtype, direct["encode_ms"].tolist()) == (np.float32, [[0]])


@pytest.mark.parametrize("operation", ["get", "delete", "stats"])
def test_ingest_does_nothing_but_store(stages, vectors, operation):
    """Parameters reach every step of an ensemble, and the caller would be told 200."""
    store, _ = stages
    request_rows = rows("a", vectors[:1]) | carried([7], [1], [1])
    with pytest.raises(
        InvalidInputError, match=f"operation: '{operation}'; expected one of upsert"
    ):
        store.read(request_rows, {"operation": operation})


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1000, "length 1000; expected 1"), (0, "length 0; expected 1"), (1e30, "length 1e.30")],
)
@pytest.mark.parametrize("length", [192, 64])
def test_vector_without_unit_length_is_refused_in_searches_and_writes(
    settings, checkpoint, vectors, length, factor, message
):
    """Also if it is to be cut, which would give it unit length."""
    write_index(
        settings.index, Profile.load(checkpoint), cut(vectors[:2], length), ["a", "b"], ["{}"] * 2
    )
    store, search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")
    scaled = vectors[:1] * np.float32(factor)
    for read in (
        search.read({"embedding": scaled}, {}),
        search.read({"embedding": cut(vectors[:1], length) * np.float32(factor)}, {}),
        store.read(rows("c", scaled), {}),
    ):
        (refused,) = read
        assert isinstance(refused, InvalidInputError)
        with pytest.raises(InvalidInputError, match=f"embedding: the vector has {message}"):
            raise refused
    store.close()
    search.close()


def test_vector_that_is_zero_after_the_cut_is_refused(settings, checkpoint, vectors):
    write_index(settings.index, Profile.load(checkpoint), cut(vectors[:2]), ["a", "b"], ["{}"] * 2)
    search = SearchStage(settings, "cpu")
    last = np.eye(1, 192, 191, dtype=np.float32)
    (refused,) = search.read({"embedding": last}, {})
    assert "length 0; expected 1" in str(refused)
    search.close()


def read_json(stage, id_, **parameters):
    return json.loads(run(stage, rows([id_]), **parameters)["stored_document"][0, 0])


def test_items_are_listed_counted_and_their_documents_changed(stages, vectors):
    store, search = stages
    documents = [json.dumps({"n": n}) for n in range(3)]
    run(store, rows("abc", vectors[:3], documents))
    page = read_json(store, "", operation="list", limit=2)
    assert [item["id"] for item in page["items"]] == ["a", "b"]
    assert read_json(store, page["next"], operation="list") == {
        "items": [{"id": "c", "sequence": 3, "digest": "", "document": {"n": 2}}],
        "next": None,
    }
    condition = '{"n": {"$gt": 0}}'
    assert read_json(store, "", operation="count", filter=condition) == {"count": 2}
    assert len(read_json(store, "", operation="list", filter=condition)["items"]) == 2
    changes = rows(["b", "nobody", ""], documents=['{"sold": true}', "{}", "{}"])
    *valid, nameless = store.read(changes, {"operation": "patch"})
    assert [result.sequence for result in store.run(valid)] == [4, 0]
    assert nameless.field == "id"
    hits = run(search, {"embedding": vectors[1:2]}, filter='{"sold": true}')
    assert hits["ids"].tolist() == [[b"b"]]
    assert hits["documents"].tolist() == [[b'{"n": 1, "sold": true}']]
    setting = rows(["b"], documents=['{"n": 7}'])
    assert run(store, setting, operation="set_document", digest="x")["sequence"] == [[5]]
    read = run(store, rows(["b"]), operation="get")
    assert (read["stored_document"], read["stored_digest"]) == ([[b'{"n": 7}']], [[b"x"]])
    np.testing.assert_array_equal(read["stored_embedding"][0], vectors[1])


@pytest.mark.parametrize(
    ("request_rows", "parameters", "message"),
    [
        (rows("a"), {"operation": "drop"}, "operation: 'drop'; expected one of upsert, delete"),
        (rows("a"), {"operation": 3}, "operation: 3; expected a string"),
        (rows("a"), {"operation": "list", "limit": 0}, "limit: 0; expected 1 to 1000"),
        (rows("a"), {"operation": "list", "limit": "x"}, "limit: 'x'"),
        (rows("a"), {"operation": "count", "filter": "{"}, "filter: .* is not JSON"),
        (rows("a"), {"operation": "patch", "digest": "x"}, "digest: only `set_document` takes one"),
        (rows("ab"), {"operation": "set_document", "digest": "x"}, "digest: 'x' for 2 items"),
        (rows("a"), {"profile": "sha256:0"}, "profile: .*under sha256:0; they cannot be compared"),
    ],
)
def test_bad_requests_are_refused(stages, request_rows, parameters, message):
    with pytest.raises(InvalidInputError, match=message):
        stages[0].read(request_rows, parameters)


def test_bad_rows_are_refused_before_anything_is_written(stages, vectors):
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
    for request_rows in bad:
        (row,) = store.read(request_rows, {})
        assert isinstance(row, InvalidInputError)
        fields.append(row.field)
    assert fields == ["id", "document", "embedding", "embedding", "id", "document"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"filter": 3}, "filter: 3; expected a string"),
        ({"exclude": "[1]"}, "not a list of strings"),
        ({"exclude": json.dumps(["\ud800"])}, r"exclude\[0\]: .*unpaired surrogate"),
        ({"exclude": json.dumps([""])}, r"exclude\[0\]: the id is empty"),
        ({"exclude": " " * 4_000_000}, "characters; expected at most"),
        ({"profile": "x" * 2000}, "has 2000 characters; expected at most 1024"),
        ({"top_k": 2**63}, "is not a whole number of at most 64 bits"),
        ({"exclude": "{"}, "expected the JSON text of a list"),
        ({"exclude": json.dumps(["x"] * 1001)}, "1001 strings; expected at most 1000"),
        ({"min_score": "high"}, "'high'; expected a finite number"),
        ({"min_score": True}, "true; expected a finite number"),
        ({"like": "a"}, "there is also a vector"),
        ({"profile": "sha256:0"}, "cannot be compared"),
    ],
)
def test_bad_searches_are_refused(stages, vectors, parameters, message):
    _, search = stages
    with pytest.raises(InvalidInputError, match=message):
        search.read({"embedding": vectors[:1]}, parameters)


def test_query_with_a_bad_filter_fails_alone(stages, vectors):
    """The filter is parsed when the queries of all requests are run."""
    _, search = stages
    queries = [
        *search.read({"embedding": vectors[:1]}, {"filter": "{"}),
        *search.read({"embedding": vectors[:1]}, {}),
    ]
    refused, answered = search.run(queries)
    assert isinstance(refused, InvalidInputError)
    assert answered == []


def test_full_vectors_are_cut_for_an_index_of_shorter_ones(settings, checkpoint, vectors):
    write_index(settings.index, Profile.load(checkpoint), cut(vectors[:2]), ["a", "b"], ["{}"] * 2)
    store, search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")
    run(store, rows("c", vectors[2:3]))
    run(store, rows("d", cut(vectors[3:4])), dimensions=64)
    for n, id_ in enumerate((b"a", b"b", b"c", b"d")):
        hits = run(search, {"embedding": vectors[n : n + 1]}, top_k=1)
        assert hits["ids"].tolist() == [[id_]]
        assert hits["scores"][0, 0] == pytest.approx(1, abs=1e-5)
    (refused,) = store.read(rows("e", vectors[:1]), {"dimensions": 192})
    assert "192 dimensions, the index 64" in str(refused)
    store.close()
    search.close()


def test_writes_must_be_turned_on(settings, checkpoint, vectors):
    off = settings.with_changes(writes="off")
    with pytest.raises(InvalidInputError, match=r"no store\.sqlite in .*index build"):
        StoreStage(off, "cpu")
    StoreStage(settings, "cpu").close()
    store = StoreStage(off, "cpu")
    for operation in ("upsert", "delete", "patch", "set_document"):
        with pytest.raises(ReadOnlyError, match="takes no writes; start it with --writes"):
            store.read(rows("a", vectors[:1]), {"operation": operation})
    assert store.read(rows("a"), {"operation": "get"}) == [StoreRow(ReadOperation("get", "a"))]
    store.close()
    no_index = StoreStage(Settings(checkpoint=checkpoint), "cpu")
    with pytest.raises(NotReadyError, match="no index is loaded"):
        no_index.read(rows("a"), {})
    no_index.close()


def test_both_stages_switch_to_a_restored_index(stages, settings, vectors, tmp_path):
    store, search = stages
    run(store, rows("a", vectors[:1]))
    back_up(settings.index, tmp_path / "backup")
    run(store, rows("b", vectors[1:2]))
    restore(tmp_path / "backup", settings.index)
    assert run(store, rows("b"), operation="get")["sequence"].tolist() == [[0]]
    run(store, rows("c", vectors[2:3]))
    assert run(search, {"embedding": vectors[2:3]}, top_k=5)["ids"].tolist()[0][0] == b"c"
    with Store.open(settings.index) as opened:
        assert set(opened.live_rows(["a", "b", "c"])) == {"a", "c"}


def test_damaged_item_fails_only_the_calls_that_need_it(stages, settings, vectors):
    store, search = stages
    run(store, rows("ab", vectors[:2]))
    with Store.open(settings.index) as other:
        other._connection.execute("UPDATE items SET document = '{\"n\": 9}' WHERE id = 'a'")
    damaged, whole = store.run([StoreRow(ReadOperation("get", id_)) for id_ in "ab"])
    assert isinstance(damaged, StorageError)
    assert whole.sequence == 2
    (refused,) = search.run(search.read({"embedding": vectors[:1]}, {}))
    assert isinstance(refused, StorageError)
