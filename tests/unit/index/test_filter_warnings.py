"""Hints about filters that name unknown fields, or compare fields with another type."""

import json

import numpy as np
import pytest

from lensemble.index.query import Query
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_client import Item
from lensemble_client.testing import FakeServer, fake_client
from lensemble_contract.filters import MAX_COMPARED
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXIS = np.eye(4, dtype=np.float32)[0]
DOCUMENTS = [
    {"make": "seat", "year": 2019, "tags": ["red"], "owner": {"name": "x"}, "none": None},
    {"make": "audi", "year": "2015", "price": 7.5, "sold": True},
    {},
]
NO_FIELD = "filter: no document has the field {!r}"
CASES = [
    ({"make": "seat"}, []),
    ({"make": "no such make"}, []),  # a value that is not there is no mistake
    ({"maker": "seat"}, [NO_FIELD.format("maker")]),
    ({"maker": {"$ne": "seat"}}, [NO_FIELD.format("maker")]),
    ({"owner.nam": "x", "owner.name": "x"}, [NO_FIELD.format("owner.nam")]),
    ({"$or": [{"make": "seat"}, {"a": 1}, {"b": 1}]}, [NO_FIELD.format(n) for n in "ab"]),
    ({"make": 7}, ["filter: 'make' is compared with a number, but in documents it is a string"]),
    ({"year": 2015}, []),
    ({"year": {"$gte": "2"}}, []),
    (
        {"year": True},
        [
            "filter: 'year' is compared with true or false, but in documents it is a number or a "
            "string"
        ],
    ),
    ({"make": {"$in": ["seat", 7]}}, []),
    (
        {"make": {"$in": [None, 7]}},
        ["filter: 'make' is compared with null or a number, but in documents it is a string"],
    ),
    (
        {"make": {"$contains": "s"}},
        ["filter: 'make' is compared with a list, but in documents it is a string"],
    ),
    ({"tags": {"$contains": "blue"}}, []),
    ({"tags": "red"}, ["filter: 'tags' is compared with a string, but in documents it is a list"]),
    (
        {"owner": "x"},
        ["filter: 'owner' is compared with a string, but in documents it is an object"],
    ),
    ({"none": None}, []),
    ({"sold": {"$exists": True}}, []),
    ({"unsold": {"$exists": True}}, [NO_FIELD.format("unsold")]),
    ({"unsold": {"$exists": False}}, []),
]


def upserts(documents, start=0):
    return [Upsert(str(n), AXIS, json.dumps(d)) for n, d in enumerate(documents, start)]


def warnings_of(index, condition):
    (hits,) = index.answer([Query(AXIS, 10, json.dumps(condition))])
    return list(hits.warnings)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Store.create(tmp_path_factory.mktemp("warnings") / "index", PROFILE, 4) as store:
        store.write(upserts(DOCUMENTS))
        with LiveIndex.open(store.folder) as opened:
            yield opened


@pytest.mark.parametrize(("condition", "expected"), CASES, ids=lambda each: json.dumps(each)[:40])
def test_filter_has_the_expected_warnings(index, condition, expected):
    assert warnings_of(index, condition) == expected
    assert warnings_of(index, condition) == expected, "from the cache"


@pytest.mark.parametrize(("condition", "expected"), CASES, ids=lambda each: json.dumps(each)[:40])
def test_fake_server_has_the_same_warnings(condition, expected):
    client = fake_client(FakeServer())
    for n, document in enumerate(DOCUMENTS):
        client.ingest(str(n), f"text {n}", document=document)
    assert list(client.search("text", filter=condition).warnings) == expected
    assert list(client.more_like("0", filter=condition).warnings) == expected
    (hits,) = client.search_many([Item("text")], filter=condition)
    assert list(hits.warnings) == expected


def test_search_without_a_filter_has_no_warnings(index):
    (hits,) = index.answer([Query(AXIS, 10)])
    assert hits.warnings == ()
    assert fake_client(FakeServer()).search("text").warnings == ()


def test_warnings_follow_writes_and_the_hits_do_not_change(tmp_path):
    wanted = {"year": 2020}
    with Store.create(tmp_path / "index", PROFILE, 4) as store:
        store.write(upserts([{}]))
        with LiveIndex.open(store.folder) as index:
            assert warnings_of(index, wanted) == [NO_FIELD.format("year")]
            store.write(upserts([{"year": "2020"}], 1))
            (warning,) = warnings_of(index, wanted)
            assert warning.endswith("but in documents it is a string")
            store.write(upserts([{"year": [1]}], 2))
            (warning,) = warnings_of(index, wanted)
            assert warning.endswith("but in documents it is a string or a list")
            store.write(upserts([{"year": 2020}], 3))
            (hits,) = index.answer([Query(AXIS, 10, json.dumps(wanted))])
            assert ([hit.id for hit in hits], hits.warnings) == (["3"], ())


def test_removed_documents_do_not_count(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 4) as store:
        store.write([*upserts([{"year": 1}, {}]), Delete("0")])
        with LiveIndex.open(store.folder) as index:
            assert warnings_of(index, {"year": 1}) == [NO_FIELD.format("year")]


def test_number_of_fields_that_are_looked_at_is_limited(index):
    condition = {f"field{n}": 1 for n in range(100)}
    assert len(warnings_of(index, condition)) == MAX_COMPARED
