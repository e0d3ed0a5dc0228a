"""`POST /v1/embeddings` and `/qwen3/embeddings`: forms of items, response, errors of items."""

import asyncio
import base64
import json

import numpy as np
import pytest

from lensemble_client.quantization import quantize
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, NotReadyError, OverloadedError
from lensemble_contract.items import Item
from tests.gateway import DATA_URL, PICTURE, FakeTriton, gateway, vector_of

TEXT = {"type": "text", "text": "four"}
IMAGE = {"type": "image_url", "image_url": {"url": DATA_URL}}
FORMS = {
    "string": ("four", Item("four")),
    "object": ({"text": "four", "image": DATA_URL}, Item("four", (PICTURE,))),
    "pictures": ({"image": [DATA_URL, DATA_URL]}, Item(images=(PICTURE, PICTURE))),
    "own instruction": ({"text": "four", "instruction": "abc"}, Item("four", (), "abc")),
    "one part": (TEXT, Item("four")),
    "parts": ([TEXT, IMAGE, TEXT], Item("four\nfour", (PICTURE,))),
    "url alone": ([{"type": "image_url", "image_url": DATA_URL}], Item(images=(PICTURE,))),
    "content": ({"content": [IMAGE, TEXT]}, Item("four", (PICTURE,))),
    "content string": ({"content": "four", "instruction": "ab"}, Item("four", (), "ab")),
}


def post(path, body, triton=None, **settings):
    async def send():
        async with gateway(triton, **settings) as http:
            # httpx's `json=` cannot write unpaired surrogates.
            headers = {"content-type": "application/json"}
            return await http.post(path, content=json.dumps(body), headers=headers)

    return asyncio.run(send())


def vectors(response):
    return np.array([entry["embedding"] for entry in response.json()["data"]])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_item_in_a_list(form):
    sent, item = FORMS[form]
    response = post("/v1/embeddings", {"input": ["x", sent]})
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(vectors(response)[1], vector_of(item), rtol=1e-6)


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form != "parts" and form != "url alone"]
)
def test_every_form_of_an_item_alone(form):
    sent, item = FORMS[form]
    response = post("/v1/embeddings", {"input": sent, "model": "native"}).json()
    assert response["object"] == "list"
    assert response["model"] == "native"
    assert [(entry["object"], entry["index"]) for entry in response["data"]] == [("embedding", 0)]
    np.testing.assert_allclose(response["data"][0]["embedding"], vector_of(item), rtol=1e-6)
    tokens = len(item.text or "") + 10 * len(item.images)
    assert response["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_contains_little_endian_float32():
    response = post("/v1/embeddings", {"input": "four", "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(response["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, vector_of(Item("four")))


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_quantized_vectors_as_numbers_and_as_base64(dtype):
    body = {"input": "four", "output_dtype": dtype}
    expected = quantize(vector_of(Item("four")), dtype)
    numbers = post("/v1/embeddings", body).json()["data"][0]["embedding"]
    assert numbers == expected.tolist()
    response = post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    assert base64.b64decode(response["data"][0]["embedding"]) == expected.tobytes()


def test_messages_as_vllm_sends_them():
    body = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Find it."}]},
            {"role": "user", "content": [IMAGE, TEXT]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        ],
        "continue_final_message": True,
        "add_special_tokens": True,
    }
    expected = vector_of(Item("four", (PICTURE,), "Find it."))
    np.testing.assert_allclose(vectors(post("/v1/embeddings", body))[0], expected, rtol=1e-6)


def test_items_own_instruction_replaces_the_requests():
    response = post(
        "/v1/embeddings", {"input": ["a", {"text": "a", "instruction": "xyz"}], "instruction": "x"}
    )
    assert vectors(response)[0][2] < vectors(response)[1][2]


def test_dimensions_reach_the_model():
    triton = FakeTriton()
    post("/v1/embeddings", {"input": "a", "dimensions": 3}, triton)
    assert triton.parameters == [{"dimensions": 3}]


def test_items_that_fail_keep_their_place():
    inputs = ["a", "bad", {"text": ""}, {"image": "nope"}, "bc"]
    response = post("/v1/embeddings", {"input": inputs, "partial": True})
    assert response.status_code == 200
    data = response.json()["data"]
    assert [entry["embedding"] is None for entry in data] == [False, True, True, True, False]
    assert [entry["index"] for entry in data] == list(range(5))
    assert data[1]["error"]["param"] == "input[1].text"
    assert data[3]["error"]["param"] == "input[3].image[0]"
    assert response.json()["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("path", ["/v1/embeddings", "/qwen3/embeddings"])
def test_item_that_fails_among_others_fails_the_request(path):
    """A null in the place of a vector makes clients of OpenAI crash, or store nulls."""
    response = post(path, {"input": ["a", "bad", "bc"]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "input[1].text"
    assert error["message"].startswith("input[1].text: it is bad; ")
    assert '"partial": true' in error["message"]


def test_request_with_an_unreadable_item_fails_before_any_work():
    triton = FakeTriton()
    response = post("/v1/embeddings", {"input": ["a", " ", ""]}, triton)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[2]"
    assert not triton.calls


def test_wrong_input_is_named_before_an_error_that_passes():
    """A caller who only waits and tries again would fail again."""
    triton = FakeTriton()
    triton.errors = [OverloadedError("x")] * 3
    inputs = [{"image": DATA_URL}, {"image": DATA_URL}, "bad", {"image": DATA_URL}]
    response = post("/v1/embeddings", {"input": inputs}, triton)
    assert response.json()["error"]["param"] == "input[2].text"


def test_null_counts_as_left_out():
    names = ("model", "messages", "instruction", "dimensions", "encoding_format", "output_dtype")
    nulls = dict.fromkeys((*names, "partial", "user"))
    response = post("/v1/embeddings", {"input": {"text": "four", "image": None}, **nulls})
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(vectors(response)[0], vector_of(Item("four")), rtol=1e-6)
    assert post("/v1/embeddings", {"input": None}).json()["error"]["param"] == "input"


@pytest.mark.parametrize("text", [DATA_URL, f" {DATA_URL}", DATA_URL.replace("data", "DATA")])
@pytest.mark.parametrize(
    ("path", "field"), [("/v1/embeddings", "text"), ("/qwen3/embeddings", "text")]
)
def test_data_url_as_a_text_is_refused(path, field, text):
    """Its letters would be embedded. Both are possible in `input`, so the caller must say which."""
    triton = FakeTriton()
    response = post(path, {"input": text}, triton)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert "`image_url`" in response.json()["error"]["message"]
    several = post(path, {"input": ["a", text]}, triton)
    assert several.json()["error"]["param"] == "input[1].text"
    assert not triton.calls


def test_text_about_data_urls_is_embedded():
    for text in ("data: see table 3", "data:image/png;base64,... is a data URL"):
        assert post("/v1/embeddings", {"input": text}).status_code == 200


def test_overload_is_retried_longer_for_several_items_than_for_one():
    triton = FakeTriton()
    triton.errors = [OverloadedError("x")] * 9
    response = post("/v1/embeddings", {"input": ["a", {"image": DATA_URL}]}, triton, tries=3)
    assert response.status_code == 200
    assert all(entry["embedding"] for entry in response.json()["data"])
    triton.errors = [OverloadedError("x")] * 9
    assert post("/v1/embeddings", {"input": "a"}, triton, tries=3).status_code == 429


def test_error_of_the_first_item_is_the_response_if_all_fail():
    response = post("/v1/embeddings", {"input": ["bad", ""], "partial": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0].text"
    assert post("/v1/embeddings", {"input": "bad"}).json()["error"]["param"] == "text"


@pytest.mark.parametrize(
    ("error", "status", "has_retry_after"),
    [
        (OverloadedError("x"), 429, True),
        (NotReadyError("x"), 503, True),
        (InternalError("x"), 500, False),
    ],
)
def test_error_of_triton_becomes_a_status(error, status, has_retry_after):
    triton = FakeTriton()
    triton.error = error
    response = post("/v1/embeddings", {"input": "a"}, triton)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == has_retry_after
    assert response.json()["error"]["code"] == error.code


PICTURE_PART = [{"type": "image_url", "image_url": {"url": DATA_URL}}]

REFUSED = {
    "unknown field": ({"input": "a", "dimension": 3}, "dimension"),
    "unknown field of an item": ({"input": [{"text": "a", "imag": "b"}]}, "input[0].imag"),
    "token ids": ({"input": [1, 2]}, "input[0]"),
    "lists of token ids": ({"input": [[1, 2], [3]]}, "input[0]"),
    "neither input nor messages": ({"model": "native"}, "input"),
    "input and messages": ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
    "no items": ({"input": []}, "input"),
    "too many items": ({"input": ["a"] * 9}, "input"),
    "too many pictures": ({"input": {"image": [DATA_URL] * 17}}, "image"),
    "unknown model": ({"input": "a", "model": "gpt"}, "model"),
    "unknown dtype": ({"input": "a", "output_dtype": "int4"}, "output_dtype"),
    "unknown format": ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    "unpaired surrogate": ({"input": "\ud800"}, "text"),
    "unpaired surrogate in the instruction": (
        {"input": "a", "instruction": "\ud800"},
        "instruction",
    ),
    "remote picture": ({"input": {"image": "https://example.com/a.png"}}, "image[0]"),
    "broken base64": ({"input": {"image": "data:image/png;base64,@@"}}, "image[0]"),
    "not base64": ({"input": {"image": "data:text/plain,hello"}}, "image[0]"),
    "empty picture": ({"input": {"image": "data:image/png;base64,"}}, "image[0]"),
    "two user messages": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        "messages",
    ),
    "assistant message with a text": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "messages",
    ),
    "system message with a picture": (
        {
            "messages": [
                {"role": "system", "content": PICTURE_PART},
                {"role": "user", "content": "a"},
            ]
        },
        "messages",
    ),
    "assistant message with a picture": (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": PICTURE_PART},
            ]
        },
        "messages",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_names_the_field(case):
    body, field = REFUSED[case]
    triton = FakeTriton()
    response = post("/v1/embeddings", body, triton, items=8)
    assert response.status_code == (404 if case == "unknown model" else 400), response.text
    assert response.json()["error"]["param"] == field
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not triton.calls


def test_error_for_a_missing_content_type_says_what_to_send():
    async def send():
        async with gateway() as http:
            return await http.post("/v1/embeddings", content=b'{"input": "a"}')

    response = asyncio.run(send())
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_error_for_token_ids_says_how_to_send_text():
    message = post("/v1/embeddings", {"input": [[1, 2]]}).json()["error"]["message"]
    assert "check_embedding_ctx_length=False" in message


def test_picture_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(contract, "MAX_IMAGE_BYTES", 999)
    url = f"data:image/png;base64,{base64.b64encode(b'x' * 1000).decode()}"
    response = post("/v1/embeddings", {"input": {"image": url}})
    assert response.status_code == 400
    assert "at most 999" in response.json()["error"]["message"]


def test_qwen3_embeddings_takes_one_text_with_a_picture_or_texts():
    body = {"model": "Qwen/Qwen3-VL-8B", "input": "four", "image_url": DATA_URL}
    response = post("/qwen3/embeddings", body).json()
    assert set(response) == {"object", "data", "model", "usage"}
    assert response["model"] == "Qwen/Qwen3-VL-8B"
    np.testing.assert_allclose(
        response["data"][0]["embedding"], vector_of(Item("four", (PICTURE,))), rtol=1e-6
    )
    assert len(post("/qwen3/embeddings", {"input": ["a", "b"]}).json()["data"]) == 2
    assert len(post("/qwen3/embeddings", {"image_url": DATA_URL}).json()["data"]) == 1
    for body in ({}, {"input": ["a"], "image_url": DATA_URL}):
        assert post("/qwen3/embeddings", body).status_code == 400


def test_large_picture_arrives_whole():
    big = b"x" * 400_000
    url = f"data:image/png;base64,{base64.b64encode(big).decode()}"
    triton = FakeTriton()
    assert post("/v1/embeddings", {"input": {"image": url}}, triton).status_code == 200
    assert triton.items == [Item(images=(big,))]


def test_texts_share_requests_to_triton():
    triton = FakeTriton()
    response = post("/v1/embeddings", {"input": ["a"] * 100}, triton)
    assert len(response.json()["data"]) == 100
    assert len(triton.calls) == 4  # up to 32 texts in each


def test_times_of_the_stages_are_in_a_header():
    timing = post("/v1/embeddings", {"input": ["a"]}).headers["server-timing"]
    assert "preprocess;dur=1.5, encode;dur=1.5, total;dur=" in timing
