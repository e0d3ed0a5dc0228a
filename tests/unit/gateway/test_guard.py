"""Request ids, the access log, disconnects, and failures of the gateway itself."""

import asyncio
import base64
import hashlib
import json
import logging

from lensemble.gateway.access import keys
from tests.gateway import FakeTriton, gateway
from tests.waiting import DEADLINE_S

POLICY = "content-security-policy"


def test_request_id_is_kept_unless_it_could_forge_a_line_of_the_log():
    async def send():
        async with gateway() as http:
            kept = await http.get("/health", headers={"X-Request-Id": "abc-1.2_Z"})
            assert kept.headers["x-request-id"] == "abc-1.2_Z"
            for unsafe in ("a b", 'x"y', "x" * 65, "ü".encode()):
                replaced = await http.get("/health", headers={"X-Request-Id": unsafe})
                assert len(replaced.headers["x-request-id"]) == 32

    asyncio.run(send())


def test_access_log_has_counts_and_no_content_of_the_request(caplog, tmp_path):
    key = keys.add(tmp_path / "keys.json", "me", "read")

    async def send():
        async with gateway(keys=tmp_path / "keys.json", access_log=True) as http:
            http.headers["Authorization"] = f"Bearer {key}"
            await http.post(
                "/v1/embeddings?q=SECRET",
                json={"input": ["SECRET", "bad"], "partial": True},
                headers={"User-Agent": "SECRET", "X-Request-Id": "r1"},
            )
            await http.get("/v1/items/SECRET")

    with caplog.at_level(logging.INFO, "lensemble.gateway.access"):
        asyncio.run(send())
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "lensemble.gateway.access"
    ]
    first, second = map(json.loads, lines)
    assert first["request_id"] == "r1"
    assert (first["key"], first["route"], first["status"]) == ("me", "/v1/embeddings", 200)
    assert (first["items"], first["errors"], first["tokens"]) == (2, 1, 6)
    assert second["route"] == "/v1/items/{id:text}"
    assert not any("SECRET" in line or key in line for line in lines)


def test_slash_at_the_end_of_a_path_is_ignored_and_not_redirected():
    """A redirect would lead to http, and the key would be sent without encryption."""

    async def send():
        triton = FakeTriton()
        triton.stored = {"a/": {"n": 1}}
        async with gateway(triton) as http:
            embedded = await http.post("/v1/embeddings/", json={"input": "a"})
            assert embedded.status_code == 200
            assert (await http.get("/health/")).status_code == 200
            stored = await http.post("/v1/items/", json={"items": [{"id": "b", "text": "b"}]})
            assert stored.status_code == 200
            deleted = await http.post("/v1/items/delete/", json={"ids": ["b"]})
            assert deleted.status_code == 200
            assert (await http.get("/v1/items/a/")).json()["id"] == "a/"
            assert (await http.get("/v1/none/")).status_code == 404

    asyncio.run(send())


def test_slash_at_the_end_changes_no_scope(tmp_path):
    key = keys.add(tmp_path / "keys.json", "me", "read")

    async def send():
        async with gateway(keys=tmp_path / "keys.json") as http:
            http.headers["Authorization"] = f"Bearer {key}"
            for path in ("/v1/items", "/v1/items/", "/v1/items/delete/", "/v1/items/delete%0A"):
                response = await http.post(path, json={})
                assert response.status_code in (403, 404), path
            assert (await http.delete("/v1/items/a%0A")).status_code == 403

    asyncio.run(send())


def test_docs_page_loads_nothing_from_other_hosts():
    async def send():
        async with gateway() as http:
            page = await http.get("/docs")
            assert page.status_code == 200
            assert "https://" not in page.text
            assert "http://" not in page.text
            assert "default-src 'none'; connect-src 'self';" in page.headers[POLICY]
            # The policy allows exactly this script and this style.
            for tag in ("script", "style"):
                text = page.text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in page.headers[POLICY]

    asyncio.run(send())


def test_openapi_says_which_routes_need_a_key(tmp_path):
    keys.add(tmp_path / "keys.json", "me", "read")

    async def send(**settings):
        async with gateway(**settings) as http:
            return (await http.get("/openapi.json")).json()

    with_keys, without = asyncio.run(send(keys=tmp_path / "keys.json")), asyncio.run(send())
    (scheme,) = with_keys["components"]["securitySchemes"]
    assert with_keys["components"]["securitySchemes"][scheme]["scheme"] == "bearer"
    for path, operations in with_keys["paths"].items():
        for method, operation in operations.items():
            expected = None if path == "/health" else [{scheme: []}]
            assert operation.get("security") == expected, path
            optional = without["paths"][path][method].get("security")
            assert optional == (expected and [*expected, {}]), path


def test_work_is_cancelled_when_the_caller_disconnects():
    """Uses ASGI directly, because httpx cannot hang up in the middle of a request."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("gateway", 80),
    }

    async def run():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        incoming, outgoing = asyncio.Queue(), asyncio.Queue()
        async with gateway(triton) as http:
            body = {"type": "http.request", "body": b'{"input": "a"}', "more_body": False}
            await incoming.put(body)
            app = http._transport.app
            request = asyncio.create_task(app(scope, incoming.get, outgoing.put))
            await triton.wait_for_calls(1)
            await incoming.put({"type": "http.disconnect"})
            await asyncio.wait_for(request, DEADLINE_S)
        assert triton.cancelled == 1
        assert outgoing.get_nowait()["status"] == 499

    asyncio.run(run())


def test_unexpected_failure_is_500_with_an_id_and_without_the_exceptions_text(caplog):
    async def send():
        triton = FakeTriton()
        triton.error = RuntimeError("INSIDE")
        async with gateway(triton) as http:
            return await http.post("/v1/embeddings", json={"input": "a"})

    response = asyncio.run(send())
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "INSIDE" not in response.text
    assert f"request {response.headers['x-request-id']} failed" in caplog.text
    assert "INSIDE" in caplog.text
