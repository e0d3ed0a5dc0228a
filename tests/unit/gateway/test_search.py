"""Search, stored items and what serves, over the gateway in front of a fake Triton."""

import asyncio
import json

import pytest

from lensemble.gateway import served_models
from lensemble_contract.errors import InvalidInputError
from tests.gateway import DATA_URL, PICTURE, FakeTriton, gateway


def ask(method, path, triton=None, *, settings=None, **body):
    async def go():
        async with gateway(triton, **(settings or {})) as http:
            return await http.request(method, path, **body)

    return asyncio.run(go())


def search(**body):
    triton = FakeTriton()
    return ask("POST", "/v1/search", triton, json=body), triton


def test_hits_of_one_and_of_many():
    hits = [
        {"id": "one", "score": 0.5, "document": {"image": "one.png"}},
        {"id": "two", "score": 0.25, "document": {}},
    ]
    answer, _ = search(input="abc")
    assert answer.json() == {
        "object": "list",
        "data": [{"object": "hits", "index": 0, "hits": hits}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    answer, _ = search(input=["a", "bad", {"image": DATA_URL}])
    data = answer.json()["data"]
    assert [entry["hits"] is None for entry in data] == [False, True, False]
    assert data[1]["error"]["param"] == "input[1].text"


def test_how_to_search_reaches_the_index():
    answer, triton = search(
        input="a", top_k=3, filter={"y": {"$gt": 1}}, exclude=["x"], min_score=0.5, dimensions=64
    )
    assert answer.status_code == 200
    (sent,) = triton.parameters
    assert json.loads(sent["filter"]) == {"y": {"$gt": 1}}
    assert json.loads(sent["exclude"]) == ["x"]
    assert (sent["top_k"], sent["min_score"], sent["dimensions"]) == (3, "0.5", 64)


def test_vector_at_fault_has_the_name_that_the_caller_gave_it():
    for wire, param in (("embedding", "vector"), ("profile", "profile")):
        triton = FakeTriton()
        triton.error = InvalidInputError("it has 2 numbers; expected 192", field=wire)
        answer = ask("POST", "/v1/search", triton, json={"vector": [1.0, 0.0]})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == param
        assert error["message"] == f"{param}: it has 2 numbers; expected 192"


def test_vector_and_stored_item_go_to_the_index_alone():
    for body, parameter in (
        ({"vector": [1.0, 0.0], "profile": "sha256:0"}, "profile"),
        ({"like": "car"}, "like"),
    ):
        answer, triton = search(**body)
        assert len(answer.json()["data"][0]["hits"]) == 2
        assert triton.calls == ["faiss"]
        assert parameter in triton.parameters[0]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": "a", "like": "b"}, "input"),
        ({"like": "b", "instruction": "c"}, "instruction"),
        ({"vector": [1.0], "dimensions": 1}, "dimensions"),
        ({"like": "b", "profile": "c"}, "profile"),
        ({"input": "a", "topk": 1}, "topk"),
        ({"input": "a", "filter": "x"}, "filter"),
        ({"vector": ["x"]}, "vector[0]"),
    ],
)
def test_refusals(body, field):
    answer, triton = search(**body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert not triton.calls


def test_items_are_stored_read_and_removed():
    async def go():
        triton = FakeTriton()
        async with gateway(triton) as http:
            sent = [
                {"id": "a", "text": "x", "document": {"n": 1}},
                {"id": "b", "image": DATA_URL},
                {"id": "c", "content": [{"type": "text", "text": "bad"}]},
                {"id": "d"},
                {"id": "e", "text": "x", "content": "y"},
            ]
            stored = (await http.post("/v1/items", json={"items": sent})).json()["data"]
            assert [entry["id"] for entry in stored] == list("abcde")
            written = [bool(entry["sequence"]) for entry in stored]
            assert written == [True, True, False, False, False]
            assert stored[2]["error"]["param"] == "items[2].text"
            assert stored[4]["error"]["param"] == "items[4].content"
            assert triton.stored == {"a": {"n": 1}, "b": {}}

            read = (await http.get("/v1/items/a")).json()
            assert read == {"object": "item", "id": "a", "document": {"n": 1}, "sequence": 1}
            read = (await http.get("/v1/items/a", params={"embedding": True})).json()
            assert read["embedding"] == [0.0, 1.0]
            assert (await http.get("/v1/items/x/y")).json()["error"]["param"] == "id"

            gone = (await http.delete("/v1/items/a")).json()
            assert gone == {"object": "item", "id": "a", "deleted": True, "sequence": 1}
            assert (await http.delete("/v1/items/a")).status_code == 404
            many = await http.post("/v1/items/delete", json={"ids": ["b", "z"]})
            assert [entry["sequence"] for entry in many.json()["data"]] == [1, 0]

    asyncio.run(go())


def test_later_of_two_items_with_one_id_wins():
    triton = FakeTriton()
    items = [{"id": "a", "text": "x", "document": {"n": n}} for n in range(30)]
    assert ask("POST", "/v1/items", triton, json={"items": items}).status_code == 200
    assert triton.stored == {"a": {"n": 29}}


def test_bodies_in_pieces_arrive_whole():
    """A watcher for the caller's going must not take pieces of the body."""
    items = [{"id": str(n), "text": "x" * 50} for n in range(100)]
    body = json.dumps({"items": items}).encode()

    async def pieces():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]
            await asyncio.sleep(0)

    triton = FakeTriton()
    assert ask("POST", "/v1/items", triton, content=pieces()).status_code == 200
    assert len(triton.stored) == 100
    triton = FakeTriton()
    form = {"id": "a", "text": "x" * 100_000}
    answer = ask("POST", "/v1/items", triton, data=form, files={"image": ("a", PICTURE * 20_000)})
    assert answer.json()["usage"]["total_tokens"] == 100_010


def test_form_with_files():
    triton = FakeTriton()
    form = {"id": "a/b", "document": '{"n": 1}', "text": "x"}
    files = [("image", ("one.png", PICTURE)), ("image", ("two.png", PICTURE))]
    answer = ask("POST", "/v1/items", triton, data=form, files=files)
    assert answer.json()["data"] == [{"object": "item", "index": 0, "id": "a/b", "sequence": 1}]
    assert answer.json()["usage"]["total_tokens"] == 21
    assert triton.stored == {"a/b": {"n": 1}}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"text": "x"}, "id"),
        ({"id": "a", "document": "["}, "document"),
        ({"id": "a", "document": "[]"}, "document"),
        ({"id": "a", "text": "x", "txt": "y"}, "txt"),
        ({"id": "a", "text": "x", "image": "not a file"}, "image[0]"),
    ],
)
def test_form_that_cannot_be_read(form, field):
    answer = ask("POST", "/v1/items", data=form, files={"image": ("a.png", PICTURE)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"items": []}', "items"),
        (b'{"items": [{"text": "a"}]}', "items[0].id"),
        (b'{"items": [{"id": "a", "txt": "b"}]}', "items[0].txt"),
        (b'{"items": [{"id": "a", "document": []}]}', "items[0].document"),
        (json.dumps({"items": [{"id": "a", "text": "b"}] * 9}).encode(), "items"),
    ],
)
def test_items_that_cannot_be_read(body, field):
    answer = ask("POST", "/v1/items", content=body, settings={"items": 8})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text


def test_health_follows_the_server():
    triton = FakeTriton()
    assert ask("GET", "/health", triton).json()["model_loaded"] is True
    from lensemble_contract.errors import NotReadyError

    triton.error = NotReadyError("x")
    answer = ask("GET", "/health", triton)
    assert (answer.status_code, answer.json()["model_loaded"]) == (503, False)


def test_models_are_read_from_the_metrics():
    labels = {"triton_model": "qwen3_vl", "model": "owner/name", "device_name": "H100"}
    assert served_models._embedders(labels) == [
        ("native", {"model": "owner/name", "device_name": "H100"})
    ]
    assert served_models._embedders({"triton_model": "other"}) == []
