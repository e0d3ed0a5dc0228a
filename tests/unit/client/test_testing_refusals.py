"""The fake server and the real stages, asked the same: they accept, refuse and number alike."""

import numpy as np
import pytest

from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.search import SearchStage
from lensemble.stages.store import StoreStage
from lensemble.vectors import cut_rows
from lensemble_client import Client, InvalidInputError, LensembleError
from lensemble_client.testing import FakeServer, fake_client, vector_of
from lensemble_contract import contract
from lensemble_contract.items import from_rows
from lensemble_contract.parameters import whole_number
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
LENGTH = PROFILE.dimension
UNIT = np.eye(2, LENGTH, dtype=np.float32)


def raise_first_error(rows):
    for row in rows:
        if isinstance(row, LensembleError):
            raise row
    return list(rows)


class StagesTransport:
    """A transport to the real stages of the index; the vectors of items are those of the fake."""

    def __init__(self, folder):
        settings = Settings(checkpoint=CHECKPOINT, index=folder, writes="on", compact_rows=0)
        self.store, self.search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")

    def infer(self, model, rows, parameters, timeout_s):
        if contract.TEXT.name in rows:
            vectors = np.stack([vector_of(item, LENGTH) for item in from_rows(rows)])
            length = PROFILE.check_dimensions(whole_number(parameters, contract.DIMENSIONS))
            rows = {**rows, contract.EMBEDDING.name: cut_rows(vectors, length)}
        if model.name == contract.EMBED.name:
            return rows
        stores = model.name in (contract.STORE.name, contract.INGEST.name)
        stage = self.store if stores else self.search
        read = raise_first_error(stage.read(rows, parameters))
        return stage.write(raise_first_error(stage.run(read)))

    def close(self):
        self.store.close()
        self.search.close()


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
    "exclude number": ("exclude", lambda client: client.search("x", exclude=["1", 2])),
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
    "delete id": ("id", lambda client: client.delete(["0", ""])),
    "document size": ("document", lambda client: client.ingest("n", "x", document=LARGE)),
    "document text": ("document", lambda client: client.ingest("n", "x", document=SURROGATE)),
    "document list": ("document", lambda client: client.ingest("n", "x", document=[1])),
    "id": ("id", lambda client: client.ingest("n" * 513, "x")),
    "vector nan": ("embedding", lambda client: upsert(client, ["m", "n"], [UNIT[0], NAN])),
    "vector length": ("embedding", lambda client: upsert(client, ["m", "n"], UNIT * [[1], [2]])),
}  # fmt: skip
LARGE = {"text": "x" * 70_000}
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
        lambda client: client.search("x", exclude="1x"),
        lambda client: client.more_like("1"),
    ],
)
def test_unusual_requests_are_accepted_by_both(clients, ask):
    found = [outcome(client, ask) for client in clients]
    assert found[0] == found[1] and len(found[0]) > 1 and InvalidInputError not in found[0]


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
