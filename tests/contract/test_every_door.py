"""Ids and documents: what one way into an index accepts, all accept, and all ways out return equal.

The index is a real one, behind the real stages, the client and the gateway; only Triton and the
encoder are missing. `tests/e2e/test_store.py` repeats the hard cases through them.
"""

import asyncio
import json
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lensemble.index.maintenance.backup import back_up, restore
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.store import Store
from lensemble_client import Client, InvalidInputError
from lensemble_client.testing import vector_of
from lensemble_contract import contract
from lensemble_contract.items import Item
from lensemble_corpus.entries import find_entries
from tests.gateway import gateway
from tests.stages_transport import LENGTH, PROFILE, AsyncStagesTransport, StagesTransport

TEXT = "a text"
VECTOR = vector_of(Item(TEXT), LENGTH)

TEXTS = st.text(max_size=8) | st.sampled_from(["acme", "acme\0x", "\ud800", "\0", "é\n", "1"])
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**25, 1e16, -0.0])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
    max_leaves=6,
)


def nested(levels):
    value = 1
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


DEEP = st.integers(45, 300).map(nested)
SIZES = st.integers(65_500, 65_560).map(lambda size: {"a": "x" * (size - 8)})
IDS = TEXTS | st.integers(505, 520).map(lambda size: "x" * size)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3) | DEEP | SIZES


def exactly(value):
    """JSON text of a value, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)


class Doors:
    """Every way into one index, and every way out of it."""

    def __init__(self, folder):
        self.folder = folder / "index"
        self._corpus = folder / "corpus"
        self._corpus.mkdir()
        self._transport = StagesTransport(self.folder)
        self._client = Client(transport=self._transport)
        self._runner = asyncio.Runner()
        self._gateway = gateway(AsyncStagesTransport(self._transport))
        self._http = self._run(self._gateway.__aenter__())

    def close(self):
        self._run(self._gateway.__aexit__(None, None, None))
        self._runner.close()
        self._client.close()

    def _run(self, work):
        return self._runner.run(work)

    # In: each stores an item, or raises InvalidInputError.

    def client_ingest(self, id_, document):
        self._client.ingest(id_, TEXT, document=document)

    def client_upsert(self, id_, document):
        self._client.upsert([id_], VECTOR[None], [document], profile=PROFILE.hash)

    def kserve(self, id_, document):
        rows = {
            "id": np.array([[id_.encode("utf-8", "surrogatepass")]], np.object_),
            "document": np.array([[json.dumps(document).encode()]], np.object_),
            "embedding": VECTOR[None],
        }
        self._transport.infer(contract.STORE, rows, {}, 1)

    def gateway_json(self, id_, document):
        body = {"items": [{"id": id_, "text": TEXT, "document": document}]}
        headers = {"Content-Type": "application/json"}
        self._post("/v1/items", content=json.dumps(body), headers=headers)

    def gateway_form(self, id_, document):
        try:
            form = {"id": id_.encode(), "text": TEXT, "document": json.dumps(document)}
        except UnicodeEncodeError:  # no form has such an id
            raise InvalidInputError("a surrogate") from None
        self._post("/v1/items", data=form, files={"image": ("a.png", b"x")})

    def client_patch(self, id_, document):
        self._client.upsert([id_], VECTOR[None], profile=PROFILE.hash)
        try:
            self._client.patch(id_, document, replace=True)
        except InvalidInputError:
            self.delete(id_)
            raise

    def gateway_patch(self, id_, document):
        self._client.upsert([id_], VECTOR[None], profile=PROFILE.hash)
        path, body = f"/v1/items/{quote(id_, safe='')}", {"document": document, "replace": True}
        headers = {"Content-Type": "application/json"}
        response = self._run(self._http.patch(path, content=json.dumps(body), headers=headers))
        if response.status_code == 400:
            self.delete(id_)
            raise InvalidInputError(response.json()["error"]["message"])
        assert response.status_code == 200, response.text

    def corpus(self, id_, document):
        line = {"_id": id_, **document, "text": TEXT}
        (self._corpus / "corpus.jsonl").write_text(json.dumps(line))
        (entry,) = find_entries(self._corpus)
        self._client.ingest(entry.id, TEXT, document=entry.document)

    def _post(self, path, **body):
        response = self._run(self._http.post(path, **body))
        if response.status_code == 400:
            raise InvalidInputError(response.json()["error"]["message"])
        assert response.status_code == 200, response.text

    # Out: each returns the document of an item.

    def documents(self, id_):
        hits = self._client.search(TEXT, top_k=1000)
        found = {hit.id: hit.document for hit in hits}
        body = {"input": TEXT, "top_k": 1000}
        answer = self._run(self._http.post("/v1/search", json=body)).json()["data"][0]["hits"]
        over_http = {hit["id"]: hit["document"] for hit in answer}
        yield "client get", self._client.get(id_).document
        yield "client search", found[id_]
        yield "gateway search", over_http[id_]
        path = f"/v1/items/{quote(id_, safe='')}"
        yield "gateway get", self._run(self._http.get(path)).json()["document"]
        yield "client list", {item.id: item.document for item in self._client.list_items()}[id_]
        listed = self._run(self._http.get("/v1/items")).json()["data"]
        yield "gateway list", {item["id"]: item["document"] for item in listed}[id_]
        with Store.open(self.folder) as store:
            (item,) = store.get([id_])
        yield "store", json.loads(item.document)

    def ids(self):
        return [hit.id for hit in self._client.search(TEXT, top_k=1000)]

    def delete(self, id_):
        assert self._client.delete([id_])[0] > 0

    def matches(self, condition):
        """Ids that a filter finds, in searches and lists, by the client and by the gateway."""
        body = {"input": TEXT, "top_k": 1000, "filter": condition}
        headers = {"Content-Type": "application/json"}
        response = self._run(
            self._http.post("/v1/search", content=json.dumps(body), headers=headers)
        )
        try:
            hits = self._client.search(TEXT, top_k=1000, filter=condition)
        except InvalidInputError:
            assert response.status_code == 400
            return None
        found = sorted(hit.id for hit in hits)
        assert sorted(hit["id"] for hit in response.json()["data"][0]["hits"]) == found
        assert sorted(item.id for item in self._client.list_items(condition)) == found
        assert self._client.count(condition) == len(found)
        query = {"filter": json.dumps(condition), "count": True}
        listed = self._run(self._http.get("/v1/items", params=query)).json()
        assert sorted(item["id"] for item in listed["data"]) == found
        assert listed["count"] == len(found)
        return found


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    opened = Doors(tmp_path_factory.mktemp("doors"))
    yield opened
    opened.close()


def accepted(put, id_, document):
    try:
        put(id_, document)
    except InvalidInputError:
        return False
    return True


QUICK, LONG = (
    settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    for count in (15, 400)
)


@QUICK
@given(document=DOCUMENTS)
@example({"n": 10**25})
@example({"n": 2**63})
@example({"n": 2**63 - 1})
@example({"n": float("nan")})
@example({"n": 1e16})
@example({"tenant": "acme\0x"})
@example({"t": "\ud800"})
@example(nested(50))
@example(nested(253))
@example({"a": "x" * (65_536 - 8)})
@example({"a": "x" * (65_537 - 8)})
def test_document_that_one_door_accepts_all_doors_accept_and_return_equal(doors, document):
    check_document(doors, document)


@pytest.mark.slow
@LONG
@given(document=DOCUMENTS)
def test_many_documents(doors, document):
    check_document(doors, document)


def check_document(doors, document):
    ways_in = {
        "ingest": doors.client_ingest,
        "upsert": doors.client_upsert,
        "kserve": doors.kserve,
        "json": doors.gateway_json,
        "form": doors.gateway_form,
        "patch": doors.client_patch,
        "http patch": doors.gateway_patch,
    }
    results = {name: accepted(put, name, document) for name, put in ways_in.items()}
    assert len(set(results.values())) == 1, results
    if not results["ingest"]:
        assert doors.ids() == []
        return
    for name in ways_in:
        for way_out, returned in doors.documents(name):
            assert exactly(returned) == exactly(document), (name, way_out)
        doors.delete(name)


@QUICK
@example("x\n")
@example("a\0b")
@example("\ud800")
@example("")
@given(id_=IDS)
def test_id_that_one_door_accepts_all_doors_accept_and_return_equal(doors, id_):
    check_id_everywhere(doors, id_)


@pytest.mark.slow
@LONG
@given(id_=IDS)
def test_many_ids(doors, id_):
    check_id_everywhere(doors, id_)


def check_id_everywhere(doors, id_):
    ways_in = (
        doors.client_ingest,
        doors.client_upsert,
        doors.kserve,
        doors.gateway_json,
        doors.gateway_form,
        doors.corpus,
    )
    results = []
    for put in ways_in:
        results.append(accepted(put, id_, {}))
        assert doors.ids() == ([id_] if results[-1] else [])
        if results[-1]:
            doors.delete(id_)
    assert len(set(results)) == 1, dict(
        zip([put.__name__ for put in ways_in], results, strict=True)
    )


SCALARS = st.booleans() | NUMBERS | TEXTS


@QUICK
@given(stored=SCALARS, asked=SCALARS)
@example("acme", "acme\0x")
@example("acme\0x", "acme")
@example(2**53, 2**53 + 1)
@example(2**63 - 1, float(2**63))
@example(1, True)
@example(1, "1")
@example(1, 1.0)
def test_filter_finds_a_value_if_and_only_if_it_is_equal(doors, stored, asked):
    """A text must not match another one that only begins alike, nor an integer its neighbours."""
    check_filter(doors, stored, asked)


@pytest.mark.slow
@LONG
@given(stored=SCALARS, asked=SCALARS)
def test_many_filters(doors, stored, asked):
    check_filter(doors, stored, asked)


def check_filter(doors, stored, asked):
    if not accepted(doors.client_upsert, "item", {"tenant": stored}):
        return
    is_equal = stored == asked and isinstance(stored, str) == isinstance(asked, str)
    is_equal = is_equal and isinstance(stored, bool) == isinstance(asked, bool)
    for condition in ({"tenant": asked}, {"tenant": {"$in": [asked, "other \n"]}}):
        found = doors.matches(condition)
        assert found in (None, ["item"] if is_equal else [])
        assert (found is None) == (not accepted(doors.client_upsert, "asked", {"tenant": asked}))
        if found is not None:
            doors.delete("asked")
    doors.delete("item")


HARD = [
    nested(50),
    {
        "n": [
            2**63 - 1,
            -(2**63),
            2**53 + 1,
            1,
            1.0,
            True,
            1e16,
            -0.0,
            5e-324,
            1.7976931348623157e308,
        ]
    },
    {"": {"é😀\n\x7f": ["\u2028", "\\u0000", '"', "\x01"]}},
    {"a": "x" * (65_536 - 8)},
]


@pytest.mark.parametrize("document", HARD, ids=["deep", "numbers", "texts", "large"])
def test_hard_documents_come_back_from_a_built_and_from_a_restored_index(document, tmp_path):
    index, backup = tmp_path / "index", tmp_path / "backup"
    write_index(index, PROFILE, VECTOR[None], ["a"], [json.dumps(document)])
    back_up(index, backup)
    restore(backup, tmp_path / "restored")
    for folder in (index, tmp_path / "restored"):
        with Store.open(folder) as store:
            (item,) = store.get(["a"])
            assert exactly(json.loads(item.document)) == exactly(document)


@pytest.mark.parametrize("document", [nested(51), {"n": 2**63}, {"t": "a\0"}])
def test_index_is_not_built_of_documents_that_no_server_accepts(document, tmp_path):
    with pytest.raises(InvalidInputError, match="document: the value at"):
        write_index(tmp_path / "index", PROFILE, VECTOR[None], ["a"], [json.dumps(document)])
    assert not (tmp_path / "index").exists()
