"""Keys, limits, ids and the log: what happens before a body is read, and after."""

import asyncio
import json
import logging

import pytest

from lensemble.gateway.access import guard, keys
from lensemble.gateway.app import Gateway
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import InvalidInputError
from tests.gateway import FakeTriton, gateway


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys.json"
    made = {scope: keys.add(path, f"a-{scope}", scope) for scope in keys.SCOPES}
    return path, made


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def routes():
    """Every route of the real application: path with its parameters filled in, and method."""
    paths = Gateway(GatewaySettings()).api.openapi()["paths"]
    return [(path.replace("{id}", "x"), method.upper()) for path in paths for method in paths[path]]


def test_there_are_routes():
    assert len(routes()) >= 14


def test_every_route_but_health_needs_a_key(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path) as http:
            for place, method in routes():
                wanted = 200 if place == "/health" else 401
                for headers in ({}, bearer("lens-wrong"), {"Authorization": made["read"]}):
                    answer = await http.request(method, place, headers=headers)
                    assert answer.status_code == wanted, (method, place)
                    if wanted == 401:
                        assert answer.headers["www-authenticate"] == "Bearer"
                        assert answer.json()["error"]["code"] == "invalid_api_key"
            # What is no route is not told from what is, either.
            assert (await http.get("/nope")).status_code == 401
            assert (await http.get("/docs")).status_code == 200
            assert (await http.get("/openapi.json")).status_code == 200

    asyncio.run(ask())


def test_reading_key_does_not_write(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path) as http:
            for place, method in routes():
                answer = await http.request(method, place, headers=bearer(made["read"]))
                writes = place.startswith("/v1/items") and method != "GET"
                assert (answer.status_code == 403) == writes, (method, place)
            body = {"items": [{"id": "a", "text": "b"}]}
            done = await http.post("/v1/items", json=body, headers=bearer(made["write"]))
            assert done.status_code == 200
            read = await http.get("/v1/items/a", headers=bearer(made["write"]))
            assert read.status_code == 200

    asyncio.run(ask())


def test_key_for_metrics_reads_nothing_else(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path) as http:
            for place, method in routes():
                answer = await http.request(method, place, headers=bearer(made["metrics"]))
                opened = place in ("/metrics", "/health")
                assert (answer.status_code == 403) == (not opened), (method, place)

    asyncio.run(ask())


def test_removed_key_is_refused_with_the_next_request(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path) as http:
            assert (await http.get("/metrics", headers=bearer(made["read"]))).status_code == 200
            keys.remove(path, "a-read")
            assert (await http.get("/metrics", headers=bearer(made["read"]))).status_code == 401

    asyncio.run(ask())


def test_file_holds_no_key_and_is_for_its_owner(key_file):
    path, made = key_file
    assert not any(key in path.read_text() for key in made.values())
    assert path.stat().st_mode & 0o077 == 0
    assert [(key.name, key.scope) for key in keys.load(path)] == [
        ("a-metrics", "metrics"),
        ("a-read", "read"),
        ("a-write", "write"),
    ]


def test_keys_cannot_be_mistaken(tmp_path):
    path = tmp_path / "keys.json"
    keys.add(path, "a", "read")
    for name, scope in (("a", "read"), ("b\n", "read"), ("", "read"), ("c", "admin")):
        with pytest.raises(InvalidInputError):
            keys.add(path, name, scope)
    with pytest.raises(InvalidInputError, match="no key 'z'"):
        keys.remove(path, "z")
    for text in (
        "",
        "[]",
        '{"keys": [{}]}',
        '{"keys": [{"name": "a", "scope": "x", "sha256": ""}]}',
    ):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match="not a file of keys"):
            keys.KeyFile(path)
    with pytest.raises(InvalidInputError, match="cannot read"):
        keys.KeyFile(tmp_path / "none.json")


def test_it_does_not_listen_to_others_without_keys():
    with pytest.raises(InvalidInputError, match="open to other machines"):
        Gateway(GatewaySettings(host="0.0.0.0"))


def test_more_than_are_taken_are_refused_before_the_body_is_read():
    async def ask():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        read = 0

        async def body():
            nonlocal read
            read += 1
            yield b'{"input": "a"}'

        async with gateway(triton, in_flight=2) as http:
            under_way = [
                asyncio.create_task(http.post("/v1/embeddings", json={"input": "a"}))
                for _ in range(2)
            ]
            while len(triton.calls) < 2:
                await asyncio.sleep(0.01)
            refused = await http.post("/v1/embeddings", content=body())
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            assert read == 0
            assert (await http.get("/health")).status_code == 200, "health is under no limit"
            triton.hold.set()
            assert [one.status_code for one in await asyncio.gather(*under_way)] == [200, 200]
            assert (await http.post("/v1/embeddings", json={"input": "a"})).status_code == 200

    asyncio.run(ask())


def test_rate_is_of_each_key(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path, per_minute=3) as http:
            for scope in ("read", "write"):
                answers = [
                    await http.get("/v1/models", headers=bearer(made[scope])) for _ in range(4)
                ]
                assert [one.status_code for one in answers] == [200, 200, 200, 429]
                assert 1 <= int(answers[-1].headers["retry-after"]) <= 60

    asyncio.run(ask())


def test_body_has_a_limit_whether_or_not_its_length_is_told():
    async def pieces():
        for _ in range(20):
            yield b"x" * 100

    async def ask():
        async with gateway(body_bytes=1000) as http:
            for body in (b"x" * 1001, pieces()):
                answer = await http.post("/v1/embeddings", content=body)
                assert answer.status_code == 413
                assert answer.json()["error"]["code"] == "body_too_large"

    asyncio.run(ask())


def test_bodies_of_all_requests_have_a_limit_together():
    async def ask():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        async with gateway(triton, held_bytes=150) as http:
            first = asyncio.create_task(http.post("/v1/embeddings", json={"input": "a" * 80}))
            while not triton.calls:
                await asyncio.sleep(0.01)
            refused = await http.post("/v1/embeddings", json={"input": "b" * 80})
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            triton.hold.set()
            assert (await first).status_code == 200
            again = await http.post("/v1/embeddings", json={"input": "b" * 80})
            assert again.status_code == 200, "what is done is held no more"

    asyncio.run(ask())


def test_body_must_come_in_time():
    async def slow():
        yield b"{"
        await asyncio.sleep(30)

    async def ask():
        async with gateway(body_s=0.1) as http:
            answer = await http.post(
                "/v1/embeddings", content=slow(), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 408

    asyncio.run(ask())


def test_request_id_is_kept_if_it_cannot_break_the_log():
    async def ask():
        async with gateway() as http:
            kept = await http.get("/health", headers={"X-Request-Id": "abc-1.2_Z"})
            assert kept.headers["x-request-id"] == "abc-1.2_Z"
            for bad in ("a b", 'x"y', "x" * 65, "ü".encode()):
                made = await http.get("/health", headers={"X-Request-Id": bad})
                assert len(made.headers["x-request-id"]) == 32

    asyncio.run(ask())


def test_log_says_what_was_done_and_never_what_was_sent(caplog, key_file):
    path, made = key_file

    async def ask():
        client = FakeTriton()
        async with gateway(client, keys=path) as http:
            http._transport.app._guard._settings = GatewaySettings(keys=path)
            await http.post(
                "/v1/embeddings?q=SECRET",
                json={"input": ["SECRET", "bad"]},
                headers={**bearer(made["read"]), "User-Agent": "SECRET", "X-Request-Id": "r1"},
            )
            await http.get("/v1/items/SECRET", headers=bearer(made["read"]))

    with caplog.at_level(logging.INFO):
        asyncio.run(ask())
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "lensemble.gateway.access"
    ]
    first, second = map(json.loads, lines)
    assert first["request_id"] == "r1"
    assert (first["key"], first["route"], first["status"]) == ("a-read", "/v1/embeddings", 200)
    assert (first["items"], first["errors"], first["tokens"]) == (2, 1, 6)
    assert second["route"] == "/v1/items/{id:path}"
    assert not any("SECRET" in line or made["read"] in line for line in lines)


def test_work_is_given_up_when_the_caller_goes():
    """Through the ASGI interface: the server says `http.disconnect` where a caller hangs up."""

    async def ask():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        async with gateway(triton) as http:
            app = http._transport.app
            messages = asyncio.Queue()
            body = b'{"input": "a"}'
            await messages.put({"type": "http.request", "body": body, "more_body": False})
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
            sent = []

            async def send(message):
                sent.append(message)

            task = asyncio.create_task(app(scope, messages.get, send))
            while not triton.calls:
                await asyncio.sleep(0.01)
            await messages.put({"type": "http.disconnect"})
            await asyncio.wait_for(task, 5)
            assert triton.cancelled == 1
            assert sent[0]["status"] == 499

    asyncio.run(ask())


def test_fault_of_ours_is_500_with_its_id_and_no_inside(caplog):
    async def ask():
        triton = FakeTriton()
        triton.error = RuntimeError("INSIDE")  # type: ignore[assignment]
        async with gateway(triton) as http:
            answer = await http.post("/v1/embeddings", json={"input": "a"})
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "internal"
            assert "INSIDE" not in answer.text
            assert answer.headers["x-request-id"] in caplog.text

    asyncio.run(ask())


def test_metrics_count(key_file):
    path, made = key_file

    async def ask():
        async with gateway(keys=path) as http:
            await http.get("/v1/models")
            await http.post(
                "/v1/embeddings", json={"input": ["ab", "bad"]}, headers=bearer(made["read"])
            )
            return (await http.get("/metrics", headers=bearer(made["read"]))).text

    text = asyncio.run(ask())
    for line in (
        'lensemble_gateway_requests_total{route="/v1/embeddings",status="200"} 1.0',
        'lensemble_gateway_refused_total{reason="invalid_api_key"} 1.0',
        'lensemble_gateway_items_total{route="/v1/embeddings"} 2.0',
        'lensemble_gateway_items_failed_total{route="/v1/embeddings"} 1.0',
        "lensemble_gateway_tokens_total 2.0",
        "lensemble_gateway_in_flight 1.0",
    ):
        assert line in text


def test_settings_come_from_variables_and_go_back():
    given = {
        "LENSEMBLE_GATEWAY_PORT": "9",
        "LENSEMBLE_GATEWAY_REMOTE_HOSTS": "A.example, b.example:8443",
        "LENSEMBLE_GATEWAY_CHAT_KEY": "secret",
        "LENSEMBLE_GATEWAY_ACCESS_LOG": "false",
        "LENSEMBLE_CHECKPOINT": "elsewhere",
    }
    settings = GatewaySettings.from_env(given)
    assert settings.remote_hosts == ("a.example", "b.example:8443")
    assert not settings.access_log
    assert "secret" not in repr(settings)
    assert GatewaySettings.from_env(settings.to_env()) == settings
    assert GatewaySettings.from_env(given, port=7).port == 7
    for bad in ({"PORT": "x"}, {"IN_FLIGHT": "0"}, {"PORTS": "1"}):
        with pytest.raises(InvalidInputError, match="LENSEMBLE_GATEWAY_"):
            GatewaySettings.from_env({f"LENSEMBLE_GATEWAY_{k}": v for k, v in bad.items()})


def test_scope_goes_by_method_and_path():
    assert guard.scope_of("POST", "/v1/items/delete") == "write"
    assert guard.scope_of("GET", "/v1/items/x") == "read"
    assert guard.scope_of("POST", "/v1/search") == "read"
    assert guard.scope_of("GET", "/metrics") == "metrics"
