"""`lensemble_client.testing`: the fake server answers as the real one does."""

import asyncio
import json
import re
import sqlite3

import numpy as np
import pytest

from lensemble.index.storage.filter import Filter
from lensemble_client import (
    InvalidInputError,
    Item,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    ReadOnlyError,
    Record,
    Retry,
)
from lensemble_client.testing import FakeServer, fake_async_client, fake_client, vector_of
from lensemble_client.testing.filters import matches
from lensemble_contract.filters import parse_filter
from tests.paths import ROOT

AT_ONCE = Retry(tries=3, first_wait_s=0.0)
CARS = [
    Record("1", Item("a red car"), {"year": 2010}),
    Record("2", Item("a blue car"), {"year": 2015}),
    Record("3", Item(images=(b"a picture",)), {"year": 2020}),
]


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def client(server):
    made = fake_client(server, retry=AT_ONCE)
    made.ingest_many(CARS, concurrency=1)
    return made


def test_equal_items_have_equal_vectors_and_others_do_not(client):
    vector = client.embed("a red car")
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(vector, client.embed("a red car"))
    np.testing.assert_array_equal(vector, vector_of(Item("a red car")))
    others = [Item("a red", (b"car",)), Item("a red car", instruction="x"), Item("a blue car")]
    scores = [abs(float(vector @ other)) for other in client.embed_many(others)]
    assert max(scores) < 0.6


def test_dimensions_cut_the_vector(client):
    cut = vector_of(Item("x"))[:16]
    np.testing.assert_allclose(
        client.embed("x", dimensions=16), cut / np.linalg.norm(cut), rtol=1e-6
    )
    with pytest.raises(InvalidInputError, match="dimensions: 65; expected 1 to 64"):
        client.embed("x", dimensions=65)


def test_what_is_stored_is_found_read_and_removed(client):
    hits = client.search("a blue car", top_k=2)
    assert (hits[0].id, hits[0].document) == ("2", {"year": 2015})
    assert hits[0].score == pytest.approx(1)
    assert len(hits) == 2 and hits[0].score > hits[1].score
    stored = client.get("3")
    assert (stored.document, stored.sequence, stored.digest) == (
        {"year": 2020},
        client.stats()["sequence"],
        CARS[2].digest(),
    )
    assert client.search_vector(stored.embedding, top_k=1)[0].id == "3"
    assert {hit.id for hit in client.more_like("3")} == {"1", "2"}
    assert client.delete(["3", "none"]) == [4, 0]
    with pytest.raises(NotFoundError):
        client.get("3")
    with pytest.raises(NotFoundError):
        client.more_like("3")
    assert client.stats()["count"] == 2


def test_same_record_changes_nothing_and_another_replaces_it(client):
    assert client.ingest("1", "a red car", document={"year": 2010}) == 1
    assert client.ingest("1", "a red car", document={"year": 2011}) == 4
    assert client.get("1").document == {"year": 2011}


def test_conditions_of_a_search(client):
    assert [hit.id for hit in client.search("x", filter={"year": {"$gt": 2015}})] == ["3"]
    assert {hit.id for hit in client.search("x", exclude=["1"])} == {"2", "3"}
    assert [hit.id for hit in client.search("a red car", min_score=0.9)] == ["1"]
    assert client.search("x", min_score=0.99) == []
    with pytest.raises(InvalidInputError, match="top_k: 0; expected 1 to 1000"):
        client.search("x", top_k=0)
    with pytest.raises(InvalidInputError, match="8 dimensions, the index 64"):
        client.search("x", dimensions=8)


def test_vectors_are_stored_under_the_servers_profile_alone(client):
    vectors = client.embed_many([Item("a"), Item("b")])
    assert client.upsert(["a", "b"], vectors, profile="sha256:fake") == [4, 5]
    with pytest.raises(InvalidInputError, match="profile: 'sha256:other'"):
        client.upsert(["a", "b"], vectors, profile="sha256:other")
    for bad in (2 * np.stack(vectors), np.ones((2, 3), np.float32)):
        with pytest.raises(InvalidInputError, match="embedding"):
            client.upsert(["a", "b"], bad, profile="sha256:fake")
    with pytest.raises(InvalidInputError, match="has 513 bytes; expected 1 to 512"):
        client.ingest("x" * 513, "x")


def test_errors_are_raised_for_their_content(client, server):
    server.errors = {"bad": InvalidInputError("bad text"), b"bad": InvalidInputError("bad picture")}
    results = client.embed_many([Item("good"), Item("bad"), Item(images=(b"bad",))])
    assert [str(result) for result in results[1:]] == ["bad text", "bad picture"]
    np.testing.assert_array_equal(results[0], vector_of(Item("good")))


def test_failures_are_used_once_and_tried_again(client, server):
    server.failures = [OverloadedError("busy"), OverloadedError("busy")]
    np.testing.assert_array_equal(client.embed("x"), vector_of(Item("x")))
    assert server.failures == []


def test_state_of_the_server(client, server):
    assert client.health()
    assert all(client.status().models.values())
    assert client.embedders() == ("native",)
    server.ready = False
    assert not client.health()
    assert not any(client.status().models.values())
    with pytest.raises(NotReadyError):
        client.embed("x")
    client.close()
    server.ready = True
    with pytest.raises(NotReadyError, match="closed"):
        client.embed("x")


def test_server_without_writes_and_with_other_embedders():
    server = FakeServer(writes=False, embedders=("native", "clip"))
    client = fake_client(server)
    for write in (
        lambda: client.ingest("a", "x"),
        lambda: client.delete(["a"]),
        lambda: client.upsert(["a"], np.eye(1, 64, dtype=np.float32), profile=server.profile),
    ):
        with pytest.raises(ReadOnlyError):
            write()
    assert client.embedders() == ("native", "clip")
    assert client.embed("x", embedder="clip").shape == (64,)
    with pytest.raises(NotFoundError):
        client.embed("x", embedder="hybrid")


def test_vectors_may_come_from_the_tests_own_function():
    client = fake_client(
        FakeServer(dimension=2, embed=lambda item: np.array([0.6, 0.8], np.float32))
    )
    np.testing.assert_array_equal(client.embed("x"), np.array([0.6, 0.8], np.float32))


def test_both_clients_may_share_a_server(client, server):
    async def ask():
        async with fake_async_client(server) as other:
            assert await other.health()
            await other.ingest("4", "a green car")
            return await other.search("a blue car", top_k=1), [
                measured.profile async for measured in other.embed_stream([Item("x")])
            ]

    hits, profiles = asyncio.run(ask())
    assert hits == client.search("a blue car", top_k=1)
    assert profiles == ["sha256:fake"]
    assert client.search("a green car", top_k=1)[0].id == "4"
    assert server.embedded[-1] == Item("a green car")


def test_items_are_listed_counted_and_changed(client):
    assert [item.id for item in client.list_items()] == ["1", "2", "3"]
    (listed,) = client.list_items({"year": {"$gt": 2015}})
    assert (listed.id, listed.document, listed.digest) == ("3", {"year": 2020}, CARS[2].digest())
    assert client.count() == 3
    assert client.count({"year": {"$lt": 2015}}) == 1
    assert client.patch("3", {"sold": True}) == 4
    assert client.get("3").document == {"year": 2020, "sold": True}
    with pytest.raises(NotFoundError, match="id: no item 'none'"):
        client.patch("none", {})
    # Whoever stores the original item again does not find it stored already.
    assert client.ingest_many(CARS, concurrency=1) == [1, 2, 5]
    assert client.get("3").document == {"year": 2020}


def test_a_list_is_read_in_pages(server):
    client = fake_client(server)
    client.upsert(
        [f"{n:04}" for n in range(2500)],
        np.eye(1, 64, dtype=np.float32).repeat(2500, axis=0),
        profile=server.profile,
    )
    assert [item.id for item in client.list_items()] == [f"{n:04}" for n in range(2500)]

    async def ids():
        async with fake_async_client(server) as other:
            return [item.id async for item in other.list_items()], await other.count()

    assert asyncio.run(ids()) == ([f"{n:04}" for n in range(2500)], 2500)


def test_example_of_the_docs_runs():
    section = (ROOT / "docs/client.md").read_text().split("## Testing your own code")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code, {})


DOCUMENTS = [
    {},
    {"a": 1},
    {"a": 1.0, "b": True},
    {"a": "1", "b": None},
    {"a": True, "b": {"c": 5}},
    {"a": ["x", 1, None], "b": {"c": "5"}},
    {"a": None},
    {"a": {"c": 5}},
]
CONDITIONS = [
    {},
    {"a": 1},
    {"a": True},
    {"a": "1"},
    {"a": None},
    {"a": {"$ne": 1}},
    {"a": {"$in": [1, "1", None]}},
    {"a": {"$nin": [1, True]}},
    {"a": {"$gte": 1}},
    {"a": {"$lt": "2"}},
    {"a": {"$gt": 0, "$lte": 1}},
    {"a": {"$exists": True}},
    {"a": {"$exists": False}},
    {"a": {"$contains": 1}},
    {"a": {"$contains": None}},
    {"a": {"$not": {"$gt": 0}}},
    {"b.c": 5},
    {"b.c": {"$ne": 5}},
    {"$or": [{"a": 1}, {"b.c": 5}]},
    {"$and": [{"a": 1}, {"b": True}]},
    {"$not": {"a": 1, "b": True}},
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=json.dumps)
def test_filters_mean_what_they_mean_in_the_real_index(condition):
    real = Filter.parse(json.dumps(condition))
    parsed = parse_filter(json.dumps(condition))
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE items (document TEXT)")
        for document in DOCUMENTS:
            database.execute("DELETE FROM items")
            database.execute("INSERT INTO items VALUES (?)", [json.dumps(document)])
            rows = database.execute(f"SELECT 1 FROM items WHERE {real.sql}", real.parameters)
            assert matches(parsed, document) == bool(rows.fetchall()), document
    database.close()


@pytest.mark.parametrize("condition", [{"$where": 1}, {"a": {"$regex": "x"}}])
def test_unknown_operators_are_refused(condition):
    with pytest.raises(InvalidInputError, match="filter"):
        fake_client().search("x", filter=condition)
