"""JSON bodies: what is refused before it is parsed, what runs off the event loop, exact values."""

import asyncio
import base64
import itertools
import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lensemble.gateway.inputs import json_bodies, json_parser
from lensemble.gateway.inputs.json_bodies import MAX_VALUES, ValueCounter
from lensemble.gateway.inputs.json_parser import parse_json
from lensemble.gateway.inputs.request_schemas import (
    EmbeddingsRequest,
    IdsRequest,
    ItemsRequest,
    SearchRequest,
)
from lensemble_contract.errors import InvalidInputError
from tests.gateway import PICTURE, FakeTriton, gateway
from tests.waiting import DEADLINE_S

JSON = {"Content-Type": "application/json"}
PARTS = [{"type": "text", "text": "a"}]


def body(field, entry, count, **others):
    """`{"field": [entry, entry, ...]}` as JSON, made quickly."""
    head = json.dumps(others)[:-1] + (", " if others else "")
    return f'{head}"{field}": [{", ".join([json.dumps(entry)] * count)}]}}'.encode()


def post(path, content, triton=None):
    """The response, and the number of other tasks' turns on the event loop until it came."""
    turns = itertools.count()

    async def count_turns():
        while True:
            next(turns)
            await asyncio.sleep(0)

    async def send():
        async with gateway(triton) as http:
            others = asyncio.create_task(count_turns())
            response = await http.post(path, content=content, headers=JSON)
            others.cancel()
            return response

    return asyncio.run(send()), next(turns)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/embeddings", body("input", 1, 500_000)),
        ("/v1/embeddings", body("input", {"a": 1}, 200_000)),
        ("/v1/embeddings", b'{"input": ' + b"[" * 200_000),
        ("/v1/search", body("vector", 0.5, 500_000)),
        ("/v1/search", body("exclude", "x", 500_000, like="a")),
        ("/v1/items", body("items", {"id": "a"}, 200_000)),
        ("/v1/items/delete", body("ids", "x", 500_000)),
        ("/v1/rag", body("input", 1, 500_000)),
        ("/v1/chat/completions", body("messages", 1, 500_000)),
        ("/qwen3/embeddings", body("input", "x", 500_000)),
    ],
)
def test_body_with_too_many_values_is_refused_before_it_is_parsed(path, content, monkeypatch):
    def parse(*_):
        raise AssertionError("it must not be parsed")

    monkeypatch.setattr(json_bodies, "parse_json", parse)
    response, turns = post(path, content)
    assert response.status_code == 400, response.text
    assert f"more than {MAX_VALUES} values" in response.json()["error"]["message"]
    assert turns >= 1  # others had a turn after every piece of 64 KiB that was counted


def test_large_body_is_parsed_and_checked_while_the_event_loop_does_other_work(monkeypatch):
    """The parser waits for turns on the event loop, which never come if it blocks that loop."""
    others_had_turns = threading.Event()
    parse = json_parser.parse_json

    def slow_parse(*args):
        assert others_had_turns.wait(DEADLINE_S), "the event loop stood still"
        return parse(*args)

    monkeypatch.setattr(json_bodies, "parse_json", slow_parse)

    async def send():
        async with gateway() as http:
            content = json.dumps({"input": ["x" * 1000] * 100}).encode()
            request = asyncio.create_task(
                http.post("/v1/embeddings", content=content, headers=JSON)
            )
            for _ in range(100):
                await asyncio.sleep(0.001)
            others_had_turns.set()
            return await request

    assert asyncio.run(send()).status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("/v1/embeddings", body("input", "a", 257), "input"),
        ("/v1/search", body("exclude", "a", 1001, like="b"), "exclude"),
        ("/v1/search", body("vector", 1, 65_537), "vector"),
        ("/v1/items", body("items", {"id": "a"}, 257), "items"),
        ("/v1/items/delete", body("ids", "a", 257), "ids"),
        ("/v1/embeddings", body("messages", {"role": "user", "content": "a"}, 17), "messages"),
    ],
)
def test_list_that_is_too_long_is_refused_before_its_entries_are_checked(path, content, field):
    triton = FakeTriton()
    response, _ = post(path, content, triton)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert "at most" in error["message"]
    assert not triton.calls


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (EmbeddingsRequest, {"input": [{"a": 1}] * 256}),
        (EmbeddingsRequest, {"input": [[{"a": 1}] * 1000] * 256}),
        (EmbeddingsRequest, {"input": [[1] * 1000] * 256}),
        (EmbeddingsRequest, {"input": [1] * 9000}),
        (EmbeddingsRequest, {"input": "a", **dict.fromkeys(map(str, range(9000)), 1)}),
        (EmbeddingsRequest, {"input": [dict.fromkeys(map(str, range(9000)), 1)]}),
        (EmbeddingsRequest, {"input": [{"image": [1] * 9000}]}),
        (SearchRequest, {"vector": ["a"] * 9000}),
        (SearchRequest, {"like": "a", "exclude": [1] * 1000}),
        (ItemsRequest, {"items": [{"x": 1}] * 256}),
        (IdsRequest, {"ids": [1] * 256}),
    ],
)
def test_check_stops_at_the_first_faults(model, fields):
    with pytest.raises(ValidationError) as raised:
        model.model_validate(fields)
    assert raised.value.error_count() <= 2  # the fault, and a field that is missing for it


def test_item_with_too_many_parts_is_refused():
    response, _ = post("/v1/embeddings", json.dumps({"input": [PARTS * 1025]}).encode())
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0]"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.lists(st.integers(1, 7), min_size=1), st.booleans())
def test_count_does_not_depend_on_the_pieces(value, sizes, is_ascii):
    text = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    whole, in_pieces = ValueCounter(), ValueCounter()
    whole.feed(text)
    start = 0
    for size in itertools.cycle(sizes):
        in_pieces.feed(text[start : start + size])
        start += size
        if start >= len(text):
            break
    expected = 3 * containers(value) + commas(value)
    assert in_pieces.values == expected
    assert whole.values == expected + text.count(b'\\"') // 16


def containers(value):
    """Number of lists and objects in a value."""
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + sum(map(containers, value)) if isinstance(value, list) else 0


def commas(value):
    """Number of commas between the entries of lists and objects in a value."""
    if isinstance(value, dict):
        value = [*value.values()]
    return max(0, len(value) - 1) + sum(map(commas, value)) if isinstance(value, list) else 0


@settings(max_examples=30, deadline=None)
@given(VALUES, st.booleans())
def test_value_is_the_same_if_long_strings_are_parsed_apart(value, is_ascii):
    text = json.dumps({"value": value, "\t" * 3: 'a"\\b'}, ensure_ascii=is_ascii)
    content = text.encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_parser, "SMALL_BYTES", 0)
        patch.setattr(json_parser, "LONG_BYTES", 2)
        try:
            parsed = parse_json(content)
        except InvalidInputError as error:
            assert "surrogate" in str(error) or "UTF-8" in str(error)
        else:
            assert parsed == json.loads(content)


@pytest.mark.parametrize(
    "content",
    [b'{"a": "bcd', b'{"a": "b\ncd"}', b'{"abcdef": 1,}', b'{"a": "\\x6666"}', b'"a"bcde"'],
)
def test_malformed_large_text_is_refused(content, monkeypatch):
    monkeypatch.setattr(json_parser, "SMALL_BYTES", 0)
    monkeypatch.setattr(json_parser, "LONG_BYTES", 2)
    with pytest.raises(InvalidInputError, match="the body is not JSON"):
        parse_json(content)


def test_large_text_with_much_besides_long_strings_is_refused(monkeypatch):
    monkeypatch.setattr(json_parser, "SMALL_BYTES", 0)
    monkeypatch.setattr(json_parser, "MAX_REST_BYTES", 20)
    with pytest.raises(InvalidInputError, match="besides long strings"):
        parse_json(json.dumps(["x"] * 10).encode())
    with pytest.raises(InvalidInputError, match="a string of 30 bytes"):
        monkeypatch.setattr(json_parser, "LONG_BYTES", 20)
        parse_json(json.dumps("ñ" * 5).encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[18446744073709551616]", True),
        ("[-9223372036854775809]", True),
        ("[1234567890123456789]", False),
        ("[0.12345678901234567890123]", False),
        ("[12345678901234567890123.0]", False),
        ("[12345678901234567890123e-3]", False),
        ('["18446744073709551616"]', False),
    ],
)
def test_integers_beyond_64_bits_are_found(text, found):
    for size in (1, 5, 100):
        counter = ValueCounter()
        for start in range(0, len(text), size):
            counter.feed(text[start : start + size].encode())
        assert bool(counter.long_integer) == found


def test_integer_beyond_64_bits_is_not_changed():
    content = b'{"a": 18446744073709551617, "b": -9223372036854775809}'
    counter = ValueCounter()
    counter.feed(content)
    assert parse_json(content, counter.long_integer) == json.loads(content)


def test_integer_beyond_64_bits_in_a_large_body_is_refused_with_its_value():
    content = body("input", "x" * 1000, 1100, dimensions=2**64)
    response, _ = post("/v1/embeddings", content)
    assert response.status_code == 400
    assert "18446744073709551616" in response.json()["error"]["message"]


def test_pictures_of_a_large_body_arrive_unchanged():
    triton, picture, text = FakeTriton(), PICTURE + bytes(2**20), 'ñ"\\' * 2**15
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = json.dumps({"input": [{"image": url}, {"text": text}, "last"]}).encode()
    response, turns = post("/v1/embeddings", content, triton)
    assert response.status_code == 200
    assert {item.images or item.text for item in triton.items} == {(picture,), text, "last"}
    assert turns >= len(content) // 2**16  # one after each piece that was counted
