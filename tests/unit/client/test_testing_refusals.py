"""The fake server and the real stages, asked the same: they accept, refuse and number alike."""

import functools
import uuid

import numpy as np
import pytest

from lensemble_client import (
    Client,
    InvalidInputError,
    Item,
    LensembleError,
    Qwen3VLEmbedder,
    Record,
    calls,
)
from lensemble_client.testing import FakeServer, fake_client
from lensemble_contract import contract
from lensemble_contract.documents import CONTENT_DIGEST
from tests.stages_transport import LENGTH, PROFILE, StagesTransport

UNIT = np.eye(2, LENGTH, dtype=np.float32)


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """A client of the fake server and one of the real stages, with the same items."""
    fake = fake_client(FakeServer(dimension=LENGTH, profile=PROFILE.hash))
    with Client(transport=StagesTransport(tmp_path_factory.mktemp("fake") / "index")) as real:
        for client in (fake, real):
            for n in range(3):
                client.ingest(str(n), f"car {n}", document={"year": 2010 + n, "b": {"c": n}})
        yield fake, real


def outcome(client, ask):
    """What a call gave: the class and field of its error, or ids or numbers."""
    try:
        result = ask(client)
    except LensembleError as error:
        return type(error), error.field
    return [getattr(each, "id", each) for each in result]


def nested(levels):
    condition = {"a": 1}
    for _ in range(levels):
        condition = {"$not": condition}
    return condition


BAD_FILTERS = [
    "x", 5, {"$or": [5]}, {"$not": 5}, {"$and": {"year": 1}}, {"year": {"$in": 5}},
    {"a": {"$nin": None}}, {"$and": 5}, nested(16), nested(660), {"year": {}},
    {"year": {"$in": []}}, {"year": {"$in": "ab"}}, {"year": {"$in": list(range(3000))}},
    {"$and": []}, {"$or": []}, {"year": {"$exists": 1}}, {"year": {"$exists": "no"}},
    {"year": {"$gte": None}}, {"year": {"$lt": True}}, {"year": {"$gt": [1]}},
    {"year": {"$contains": [1]}}, {"year": {"$contains": {}}}, {"year": [1]},
    {"year": {"$eq": {"a": 1}}}, {"year": {"$ne": [1]}}, {"year": {"$in": [[1]]}}, {"": 1},
    {"a..b": 1}, {"a'b": 1}, {'a"b': 1}, {"a[0]": 1}, {"a" * 300: 1}, {"year": 10**30},
    {"year": {"$in": [10**30]}}, {"year": "\ud800"}, {"$where": 1}, {"a": {"$regex": "x"}},
    {"a": {"$not": 1}}, {"$or": [{"a": n} for n in range(300)]}, {"a": "x" * 70_000},
]  # fmt: skip


@pytest.mark.parametrize("condition", BAD_FILTERS, ids=lambda value: str(value)[:30])
def test_bad_filters_are_refused_by_both(clients, condition):
    def ask(client):
        return client.search("x", filter=condition)

    assert outcome(clients[0], ask) == outcome(clients[1], ask) == (InvalidInputError, "filter")
    empty = fake_client()  # no document is compared with the filter
    assert outcome(empty, ask) == (InvalidInputError, "filter")


@pytest.mark.parametrize("condition", [nested(15), {}, {"b.c": {"$gte": 1}}, {"$not": {}}])
def test_good_filters_are_accepted_by_both(clients, condition):
    found = [outcome(client, lambda client: client.search("x", filter=condition))
             for client in clients]  # fmt: skip
    assert found[0] == found[1] and InvalidInputError not in found[0]


NAN = UNIT[0] * np.nan
REFUSED = {
    "top_k 1.5": ("top_k", lambda client: client.search("x", top_k=1.5)),
    "top_k True": ("top_k", lambda client: client.search("x", top_k=True)),
    "top_k text": ("top_k", lambda client: client.search("x", top_k="many")),
    "top_k 0": ("top_k", lambda client: client.search("x", top_k=0)),
    "top_k 1001": ("top_k", lambda client: client.search("x", top_k=1001)),
    "exclude number": ("exclude[1]", lambda client: client.search("x", exclude=["1", 2])),
    "exclude 1001": ("exclude", lambda client: client.search("x", exclude=["1"] * 1001)),
    "min_score nan": ("min_score", lambda client: client.search("x", min_score=np.nan)),
    "min_score inf": ("min_score", lambda client: client.search("x", min_score=np.inf)),
    "query nan": ("embedding", lambda client: client.search_vector(NAN)),
    "query length": ("embedding", lambda client: client.search_vector(UNIT[0, :3])),
    "query profile": ("profile", lambda client: client.search_vector(UNIT[0], profile="x")),
    "like number": ("like", lambda client: client.more_like(5)),
    "like empty": ("like", lambda client: client.more_like("")),
    "like unknown": ("like", lambda client: client.more_like("unknown")),
    "dimensions 1.5": ("dimensions", lambda client: client.embed("x", dimensions=1.5)),
    "dimensions True": ("dimensions", lambda client: client.embed("x", dimensions=True)),
    "dimensions 0": ("dimensions", lambda client: client.embed("x", dimensions=0)),
    "search dimensions": ("dimensions", lambda client: client.search("x", dimensions=1.5)),
    "search cut": ("embedding", lambda client: client.search("x", dimensions=128)),
    "delete id": ("ids[1]", lambda client: client.delete(["0", ""])),
    "document size": ("document", lambda client: client.ingest("n", "x", document=LARGE)),
    "document text": ("document", lambda client: client.ingest("n", "x", document=SURROGATE)),
    "document list": ("document", lambda client: client.ingest("n", "x", document=[1])),
    "document deep": ("document", lambda client: client.ingest("n", "x", document=DEEP)),
    "document integer": ("document", lambda client: client.ingest("n", "x", document={"n": 2**63})),
    "document nul": ("document", lambda client: client.ingest("n", "x", document={"t": "a\0x"})),
    "document name": ("document", lambda client: client.ingest("n", "x", document={1: "x"})),
    "id": ("id", lambda client: client.ingest("n" * 513, "x")),
    "id nul": ("id", lambda client: client.ingest("n\0", "x")),
    "id integer": ("id", lambda client: client.ingest(12, "x")),
    "ids text": ("ids", lambda client: client.delete("12")),
    "ids integer": ("ids", lambda client: client.delete(12)),
    "ids integers": ("ids[1]", lambda client: client.delete(["0", 1])),
    "ids uuid": ("ids[0]", lambda client: client.delete([uuid.UUID(int=1)])),
    "upsert ids text": ("ids", lambda client: upsert(client, "a", UNIT[:1])),
    "upsert id integer": ("ids[0]", lambda client: upsert(client, [12], UNIT[:1])),
    "upsert one vector": ("vectors", lambda client: upsert(client, ["a"], UNIT[0])),
    "upsert numbers": ("ids", lambda client: upsert(client, 5, UNIT)),
    "get integer": ("id", lambda client: [client.get(12)]),
    "get nul": ("id", lambda client: [client.get("1\0")]),
    "exclude text": ("exclude", lambda client: client.search("x", exclude="12")),
    "exclude surrogate": ("exclude[0]", lambda client: client.search("x", exclude=["\ud800"])),
    "exclude nul": ("exclude[0]", lambda client: client.search("x", exclude=["1\0"])),
    "like nul": ("like", lambda client: client.more_like("1\0x")),
    "like surrogate": ("like", lambda client: client.more_like("\ud800")),
    "filter nul": ("filter", lambda client: client.search("x", filter={"a": "1\0"})),
    "filter nul in": ("filter", lambda client: client.search("x", filter={"a": {"$in": ["\0"]}})),
    "profile nul": ("profile", lambda client: client.search_vector(UNIT[0], profile="a\0")),
    "top_k 2^63": ("top_k", lambda client: client.search("x", top_k=2**63)),
    "dimensions 2^63": ("dimensions", lambda client: client.embed("x", dimensions=2**63)),
    "min_score text": ("min_score", lambda client: client.search("x", min_score="much")),
    "query long": ("embedding", lambda client: client.search_vector(UNIT[0] * 1000)),
    "query zero": ("embedding", lambda client: client.search_vector(UNIT[0] * 0)),
    "query huge": ("embedding", lambda client: client.search_vector([1e300] * LENGTH)),
    "query text": ("embedding", lambda client: client.search_vector("abc")),
    "query matrix": ("embedding", lambda client: client.search_vector(UNIT)),
    "text integer": ("text", lambda client: client.embed(12)),
    "text data URL": ("text", lambda client: client.embed("data:image/png;base64,iVBORw0KGgo=")),
    "vector nan": ("embedding", lambda client: upsert(client, ["m", "n"], [UNIT[0], NAN])),
    "vector length": ("embedding", lambda client: upsert(client, ["m", "n"], UNIT * [[1], [2]])),
}  # fmt: skip
LARGE = {"text": "x" * 70_000}
DEEP = {"a": functools.reduce(lambda inner, _: [inner], range(50), 1)}
SURROGATE = {"text": "\ud800"}


def upsert(client, ids, vectors, **options):
    return client.upsert(ids, np.array(vectors, np.float32), profile=PROFILE.hash, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused_by_both(clients, name):
    field, ask = REFUSED[name]
    found = [outcome(client, ask) for client in clients]
    assert found[0] == found[1]
    assert found[0][1] == field
    stats = [client.stats() for client in clients]  # nothing was written
    assert stats[0]["sequence"] == stats[1]["sequence"]
    assert stats[0]["count"] == stats[1]["count"] == 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.search_vector(UNIT[0], profile=""),
        lambda client: client.search("x", top_k="2"),
        lambda client: client.search("x", min_score=-np.inf, exclude=["1"]),
        lambda client: client.search("x", exclude={"1"}),
        lambda client: client.search("x", exclude=(id_ for id_ in ["2"])),
        lambda client: client.more_like("1"),
    ],
)
def test_unusual_requests_are_accepted_by_both(clients, ask):
    found = [outcome(client, ask) for client in clients]
    assert found[0] == found[1] and len(found[0]) > 1 and InvalidInputError not in found[0]


@pytest.mark.parametrize("condition", [None, {}, {"year": {"$gt": 2010}}, {"none": 1}], ids=str)
def test_items_are_listed_and_counted_alike(clients, condition):
    lists = [list(client.list_items(condition)) for client in clients]
    assert lists[0] == lists[1]
    assert [client.count(condition) for client in clients] == [len(lists[0])] * 2
    for limit in (1, 2, 3):
        pages = [client.run(calls.list_page(condition, "0", limit)) for client in clients]
        assert pages[0] == pages[1]


def test_documents_are_changed_alike(clients):
    for client in clients:
        client.ingest("p", "x", document={"n": 1, "b": {"c": 1, "d": 2}})
        client.run(calls.ingest(Record("q", Item("y")), f"{CONTENT_DIGEST}1"))
    changes = [
        lambda client: client.patch("p", {"b": {"c": None, "é": 3}, "n": None}),
        lambda client: client.patch("p", {}),
        lambda client: client.patch("p", {"only": 1}, replace=True),
        lambda client: client.patch("p", {"only": None}, replace=True),
        lambda client: client.patch("q", {"n": 1}),
        lambda client: client.patch("unknown", {"n": 1}),
        lambda client: client.patch("p", {"x": "y" * 70_000}),
        lambda client: client.patch("", {}),
        lambda client: client.run(
            calls.change_document("q", {"n": 2}, merge=False, digest="d" * 128)
        )[0],
    ]
    for change in changes:
        outcomes = [
            outcome(client, lambda client, change=change: [change(client)]) for client in clients
        ]
        assert outcomes[0] == outcomes[1]
        lists = [list(client.list_items()) for client in clients]
        assert lists[0] == lists[1]
    for client in clients:
        client.delete(["p", "q"])


def test_writes_have_the_same_numbers(clients):
    writes = [
        lambda client: upsert(client, ["a", "a"], [UNIT[0], UNIT[0]]),
        lambda client: upsert(client, ["a", "a"], UNIT),
        lambda client: upsert(client, ["a"], UNIT[1:]),
        lambda client: upsert(client, ["a"], UNIT[1:], documents=[{"n": 1}]),
        lambda client: upsert(client, ["a"], UNIT[1:], documents=[{"n": 1.0}]),
        lambda client: upsert(client, ["a"], UNIT[1:], documents=[{"n": True}]),
        lambda client: [client.ingest("a", "x", document={"á": 1})],
        lambda client: [client.ingest("a", "x", document={"á": 1})],
        lambda client: client.delete(["a", "a", "unknown"]),
    ]
    numbers = [[outcome(client, write) for write in writes] for client in clients]
    assert numbers[0] == numbers[1]
    first = numbers[0][0]
    assert first[0] == first[1]


def test_stored_vector_is_a_copy():
    client, vectors = fake_client(), np.eye(1, 64, dtype=np.float32)
    client.upsert(["a"], vectors, profile="sha256:fake")
    vectors[:] = 0
    assert client.get("a").embedding[0] == 1


@pytest.mark.parametrize("embedder", contract.EMBEDDERS)
def test_instruction_is_refused_by_embedders_without_one(embedder):
    client = fake_client(FakeServer(embedders=tuple(contract.EMBEDDERS)))

    def ask(client):
        return client.embed("x", instruction="y", embedder=embedder).shape

    takes = embedder in contract.EMBEDDERS_WITH_INSTRUCTION
    assert outcome(client, ask) == ([64] if takes else (InvalidInputError, "instruction"))


def test_any_bytes_are_a_picture_until_an_error_is_set():
    server = FakeServer()
    client = fake_client(server)
    assert client.embed(image=b"no picture").shape == (64,)
    server.errors[b"no picture"] = InvalidInputError("not a picture")
    with pytest.raises(InvalidInputError, match="not a picture"):
        client.embed(image=b"no picture")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda client: client.embed_many("ab"),
            r"items\[0\]: it is of type str; expected an Item",
        ),
        (lambda client: client.embed_many(Item("a")), "items: it is one Item; expected several"),
        (lambda client: client.search_many(["a"]), r"items\[0\]: it is of type str"),
        (lambda client: [*client.embed_stream([Item("a"), None])], r"items\[1\]: .* NoneType"),
    ],
)
def test_items_that_are_none_are_refused_by_their_place(ask, message):
    with pytest.raises(InvalidInputError, match=message):
        ask(fake_client())


def test_records_that_are_none_fail_alone():
    (stored, refused) = fake_client().ingest_many([Record("a", Item("x")), ("b", "x")])
    assert stored == 1
    assert str(refused) == "records[1]: it is of type tuple; expected a Record"


@pytest.mark.parametrize(
    ("pictures", "texts", "field"),
    [("ab", None, "image_paths"), ([None, None], "ab", "text_contexts")],
)
def test_one_text_is_not_taken_apart_into_letters(pictures, texts, field):
    embedder = Qwen3VLEmbedder(client=fake_client())
    with pytest.raises(InvalidInputError, match=f"{field}: 'ab'; expected a list"):
        embedder.generate_batch_embeddings(pictures, texts)


def test_ids_of_a_generator_are_excluded_from_every_query():
    """The items of one call share several requests, and a generator can be read only once."""
    client = fake_client()
    for n in range(3):
        client.ingest(str(n), f"car {n}")
    queries = [Item(f"q {n}") for n in range(70)]
    found = client.search_many(queries, exclude=(id_ for id_ in "12"), batch_size=8)
    assert {hit.id for hits in found for hit in hits} == {"0"}
