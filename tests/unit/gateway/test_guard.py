"""Request ids, the access log, disconnects, and failures of the gateway itself."""

import asyncio
import json
import logging

from lensemble.gateway.access import keys
from tests.gateway import FakeTriton, gateway
from tests.waiting import DEADLINE_S


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
