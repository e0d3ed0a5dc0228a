"""`/v1/items`: writes, reads and removals, in front of a fake Triton."""

import asyncio
import json
import urllib.parse

import pytest

from lensemble_contract.errors import OverloadedError
from lensemble_contract.items import Item
from tests.gateway import DATA_URL, PICTURE, FakeTriton, gateway


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def post_items(triton=None, *, settings=None, **body):
    async def send():
        async with gateway(triton, **(settings or {})) as http:
            return await http.post("/v1/items", **body)

    return asyncio.run(send())


def test_items_are_stored_and_those_that_fail_keep_their_place():
    triton = FakeTriton()
    items = [
        {"id": "a", "text": "x", "document": {"n": 1}},
        {"id": "b", "image": DATA_URL},
        {"id": "c", "content": [{"type": "text", "text": "bad"}]},
        {"id": "d"},
        {"id": "e", "text": "x", "content": "y"},
    ]
    entries = post_items(triton, json={"items": items}).json()["data"]
    assert [entry["id"] for entry in entries] == list("abcde")
    assert [bool(entry["sequence"]) for entry in entries] == [True, True, False, False, False]
    assert entries[2]["error"]["param"] == "items[2].text"
    assert entries[4]["error"]["param"] == "items[4].content"
    assert triton.stored == {"a": {"n": 1}, "b": {}}


def test_stored_item_is_read_and_removed():
    async def send():
        triton = FakeTriton()
        triton.stored = {"a": {"n": 1}, "b": {}}
        async with gateway(triton) as http:
            item = (await http.get("/v1/items/a")).json()
            assert item == {"object": "item", "id": "a", "document": {"n": 1}, "sequence": 1}
            item = (await http.get("/v1/items/a", params={"embedding": True})).json()
            assert item["embedding"] == [0.0, 1.0]
            missing = await http.get("/v1/items/x/y")
            assert missing.status_code == 404
            assert missing.json()["error"]["param"] == "id"

            removed = (await http.delete("/v1/items/a")).json()
            assert removed == {"object": "item", "id": "a", "deleted": True, "sequence": 1}
            assert (await http.delete("/v1/items/a")).status_code == 404
            several = await http.post("/v1/items/delete", json={"ids": ["b", "z"]})
            assert [entry["sequence"] for entry in several.json()["data"]] == [1, 0]

    asyncio.run(send())


def test_items_are_listed_in_pages_and_counted():
    triton = FakeTriton()
    triton.stored = {f"{n}/x": {"n": n} for n in range(5)}

    async def send():
        async with gateway(triton) as http:
            first = (await http.get("/v1/items", params={"limit": 2, "count": True})).json()
            assert first == {
                "object": "list",
                "data": [
                    {"object": "item", "id": "0/x", "document": {"n": 0}, "sequence": 1},
                    {"object": "item", "id": "1/x", "document": {"n": 1}, "sequence": 1},
                ],
                "has_more": True,
                "next": "1/x",
                "count": 5,
            }
            filter_ = json.dumps({"n": {"$gte": 0}})
            query = {"limit": 9, "after": first["next"], "filter": filter_}
            rest = (await http.get("/v1/items", params=query)).json()
            assert [item["id"] for item in rest["data"]] == ["2/x", "3/x", "4/x"]
            assert (rest["has_more"], rest["next"], "count" in rest) == (False, None, False)
            assert json.loads(triton.parameters[-1]["filter"]) == {"n": {"$gte": 0}}
            for query, field in (
                ({"filter": "{"}, "filter"),
                ({"filter": "[]"}, "filter"),
                ({"limit": "x"}, "limit"),
            ):
                refused = await http.get("/v1/items", params=query)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)

    asyncio.run(send())


def test_document_is_changed_alone():
    triton = FakeTriton()
    triton.stored = {"a/b": {"n": 1, "sold": False}}

    async def send():
        async with gateway(triton) as http:
            changed = await http.patch("/v1/items/a/b", json={"document": {"sold": True}})
            assert changed.json() == {"object": "item", "id": "a/b", "sequence": 1}
            assert triton.stored == {"a/b": {"n": 1, "sold": True}}
            body = {"document": {"n": 2}, "replace": True}
            assert (await http.patch("/v1/items/a/b", json=body)).status_code == 200
            assert triton.stored == {"a/b": {"n": 2}}
            missing = await http.patch("/v1/items/c", json={"document": {}})
            assert (missing.status_code, missing.json()["error"]["param"]) == (404, "id")
            for body, field in (
                ({}, "document"),
                ({"document": []}, "document"),
                ({"document": {}, "text": "x"}, "text"),
            ):
                refused = await http.patch("/v1/items/a/b", json=body)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
            assert triton.items == [], "nothing is embedded"

    asyncio.run(send())


@pytest.mark.parametrize("document", [{"a": nested(300)}, {"n": 2**70}], ids=["deep", "large"])
def test_document_that_an_earlier_version_stored_is_returned_unchanged(document):
    """Such a document is refused today; one of them must not spoil a whole answer."""

    async def send():
        triton = FakeTriton()
        triton.stored = {"a": document}
        async with gateway(triton) as http:
            return await http.get("/v1/items/a", params={"embedding": True})

    response = asyncio.run(send())
    assert response.status_code == 200
    assert response.json()["document"] == document
    assert response.json()["embedding"] == [0.0, 1.0]


def test_the_last_of_several_items_with_one_id_is_stored():
    """Even if the first write is refused and tried again: the later ones must not overtake it."""
    triton = FakeTriton()
    triton.errors = [OverloadedError("x"), OverloadedError("x")]
    items = [{"id": "a", "text": "x", "document": {"n": n}} for n in range(30)]
    response = post_items(triton, settings={"tries": 3}, json={"items": items})
    assert response.status_code == 200
    assert all(entry["sequence"] for entry in response.json()["data"])
    assert triton.stored == {"a": {"n": 29}}
    assert triton.documents == [item["document"] for item in items]


def test_body_in_pieces_is_read_whole():
    """The watcher for the end of the connection must not consume parts of the body."""
    items = [{"id": str(n), "text": "x" * 50} for n in range(100)]
    body = json.dumps({"items": items}).encode()

    async def pieces():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]
            await asyncio.sleep(0)

    triton = FakeTriton()
    assert post_items(triton, content=pieces()).status_code == 200
    assert len(triton.stored) == 100


def test_form_in_pieces_is_read_whole():
    triton = FakeTriton()
    text, picture = "x" * 100_000, PICTURE * 20_000
    response = post_items(triton, data={"id": "a", "text": text}, files={"image": ("a", picture)})
    assert response.status_code == 200
    assert triton.items == [Item(text, (picture,))]


def test_form_with_files():
    triton = FakeTriton()
    form = {"id": "a/b", "document": '{"n": 1}', "text": "x"}
    files = [("image", ("one.png", PICTURE)), ("image", ("two.png", PICTURE))]
    response = post_items(triton, data=form, files=files).json()
    assert response["data"] == [{"object": "item", "index": 0, "id": "a/b", "sequence": 1}]
    assert response["usage"]["total_tokens"] == 21
    assert triton.stored == {"a/b": {"n": 1}}


IDS = ["x", "x\n", "\n", "a\nb", "a/b/", "a b%20c", "ñ\u2028", "?#", "\ufffd"]


def test_every_id_is_read_and_removed_by_its_path():
    async def send():
        triton = FakeTriton()
        triton.stored = {id_: {"n": n} for n, id_ in enumerate(IDS)}
        async with gateway(triton) as http:
            for n, id_ in enumerate(IDS):
                path = f"/v1/items/{urllib.parse.quote(id_, safe='')}"
                assert (await http.get(path)).json()["document"] == {"n": n}
                assert (await http.delete(path)).json()["id"] == id_
                assert list(triton.stored) == IDS[n + 1 :]

    asyncio.run(send())


@pytest.mark.parametrize("path", ["/v1/items/%FF", "/v1/items/a%ED%A0%80"])
def test_path_that_is_not_utf8_is_refused(path):
    """uvicorn reads it as U+FFFD, which may be the id of another item."""

    async def send():
        triton = FakeTriton()
        triton.stored = {"\ufffd": {}}
        async with gateway(triton) as http:
            response = await http.delete(path)
            assert response.status_code == 400
            assert "UTF-8" in response.json()["error"]["message"]
            assert triton.stored

    asyncio.run(send())


def raw_form(boundary, **fields):
    """The body of a form with these bytes."""
    parts = [
        b"--%s\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n"
        % (boundary, name.encode(), content)
        for name, content in fields.items()
    ]
    return b"".join(parts) + b"--%s--\r\n" % boundary


@pytest.mark.parametrize("field", ["id", "text", "instruction", "document"])
def test_form_field_that_is_not_utf8_is_refused(field):
    """Read as Latin-1, the item would be stored as another text, or under another id."""
    fields = {"id": b"a", "text": b"b", field: b'{"\xff": 1}'}
    triton = FakeTriton()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = post_items(triton, content=raw_form(b"x", **fields), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert "UTF-8" in response.json()["error"]["message"]
    assert not triton.stored


@pytest.mark.parametrize(
    "content_type",
    [
        "Multipart/Form-Data; boundary=x y",
        'MULTIPART/FORM-DATA; Boundary="x y"; charset=latin-1',
        'multipart/form-data;boundary="x y"',
    ],
)
def test_content_type_of_a_form_in_any_spelling(content_type):
    triton = FakeTriton()
    headers = {"Content-Type": content_type}
    content = raw_form(b"x y", id="ñ\n".encode(), text="é".encode())
    response = post_items(triton, content=content, headers=headers)
    assert response.status_code == 200, response.text
    assert triton.stored == {"ñ\n": {}}
    assert triton.items == [Item("é")]


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
def test_malformed_form_is_refused_by_the_name_of_the_field(form, field):
    response = post_items(data=form, files={"image": ("a.png", PICTURE)})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


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
def test_malformed_json_is_refused_by_the_name_of_the_field(body, field):
    response = post_items(content=body, settings={"items": 8})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
