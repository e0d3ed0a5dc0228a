"""`POST /v1/search`, in front of a fake Triton."""

import asyncio
import json

import pytest

from lensemble_contract.errors import InvalidInputError
from tests.gateway import DATA_URL, FakeTriton, gateway


def search(triton=None, **body):
    """The response, and the fake Triton that was searched."""
    triton = triton or FakeTriton()

    async def send():
        async with gateway(triton) as http:
            return await http.post("/v1/search", json=body)

    return asyncio.run(send()), triton


def test_hits_of_one_item():
    response, _ = search(input="abc")
    hits = [
        {"id": "one", "score": 0.5, "document": {"image": "one.png"}},
        {"id": "two", "score": 0.25, "document": {}},
    ]
    assert response.json() == {
        "object": "list",
        "data": [{"object": "hits", "index": 0, "hits": hits}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def test_item_that_fails_among_others_has_its_error():
    response, _ = search(input=["a", "bad", {"image": DATA_URL}])
    data = response.json()["data"]
    assert [entry["hits"] is None for entry in data] == [False, True, False]
    assert data[1]["error"]["param"] == "input[1].text"


def test_search_options_reach_the_index():
    response, triton = search(
        input="a", top_k=3, filter={"y": {"$gt": 1}}, exclude=["x"], min_score=0.5, dimensions=64
    )
    assert response.status_code == 200
    (parameters,) = triton.parameters
    assert json.loads(parameters["filter"]) == {"y": {"$gt": 1}}
    assert json.loads(parameters["exclude"]) == ["x"]
    assert parameters["top_k"] == 3
    assert parameters["min_score"] == "0.5"
    assert parameters["dimensions"] == 64


@pytest.mark.parametrize("query", [{"input": ["a", "b"]}, {"like": "c"}, {"vector": [1.0]}])
def test_warnings_about_the_filter_are_in_the_answer_once(query):
    triton = FakeTriton()
    assert "warnings" not in search(triton, **query, filter={"year": 1})[0].json()
    triton.warnings = ["no document has it", "another type"]
    assert search(triton, **query, filter={"y": 1})[0].json()["warnings"] == triton.warnings
    assert "warnings" not in search(triton, **query)[0].json()


def test_request_for_too_many_hits_is_refused():
    response, triton = search(input=["a"] * 256, top_k=101)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "top_k"
    assert "256 queries with up to 101 hits" in response.json()["error"]["message"]
    assert not triton.calls
    assert search(input=["a"] * 256, top_k=100)[0].status_code == 200


@pytest.mark.parametrize(("tensor", "param"), [("embedding", "vector"), ("profile", "profile")])
def test_error_names_the_callers_field_and_not_the_tensor(tensor, param):
    triton = FakeTriton()
    triton.error = InvalidInputError("it has 2 numbers; expected 192", field=tensor)
    response, _ = search(triton, vector=[1.0, 0.0])
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"] == f"{param}: it has 2 numbers; expected 192"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [({"vector": [1.0, 0.0], "profile": "sha256:0"}, "profile"), ({"like": "car"}, "like")],
    ids=["vector", "stored item"],
)
def test_query_without_an_item_calls_only_the_index(query, parameter):
    response, triton = search(**query)
    assert len(response.json()["data"][0]["hits"]) == 2
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
        ({"like": ""}, "like"),
    ],
)
def test_refusal_names_the_field(body, field):
    response, triton = search(**body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert not triton.calls


def test_empty_id_is_named_as_the_reason():
    response, _ = search(like="")
    message = "like: the id is empty; expected 1 to 512 bytes of UTF-8"
    assert response.json()["error"]["message"] == message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": "a", "top_k": 2**63}, "top_k"),
        ({"input": "a", "dimensions": 2**63}, "dimensions"),
        ({"input": "a", "exclude": ["\ud800"]}, "exclude[0]"),
        ({"input": "a", "exclude": ["a\0"]}, "exclude[0]"),
        ({"like": "a\0b"}, "like"),
        ({"like": "\ud800"}, "like"),
        ({"vector": [1.0], "profile": "\0"}, "profile"),
    ],
)
def test_value_that_no_protocol_carries_is_refused_and_triton_is_not_blamed(body, field):
    triton = FakeTriton()

    async def send():
        async with gateway(triton) as http:
            headers = {"Content-Type": "application/json"}
            return await http.post("/v1/search", content=json.dumps(body), headers=headers)

    response = asyncio.run(send())
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert triton.calls == []
