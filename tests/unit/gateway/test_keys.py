"""API keys: the file, and the scopes that each route needs."""

import asyncio

import pytest

from lensemble.gateway.access import keys
from lensemble.gateway.access.caller_checks import required_scope
from lensemble.gateway.app import Gateway
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import InvalidInputError
from tests.gateway import gateway


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def key_of(key_file):
    """Scope -> a key of that scope."""
    return {scope: keys.add(key_file, f"a-{scope}", scope) for scope in keys.SCOPES}


@pytest.fixture(scope="module")
def routes():
    """Method and path of every route, with its parameters filled in."""
    paths = Gateway(GatewaySettings()).api.openapi()["paths"]
    routes = [
        (method.upper(), path.replace("{id}", "x")) for path in paths for method in paths[path]
    ]
    assert len(routes) >= 14
    return routes


def statuses(key_file, routes, headers):
    """Method and path -> status of a request with these headers."""

    async def send():
        async with gateway(keys=key_file) as http:
            return {
                route: (await http.request(*route, headers=headers)).status_code for route in routes
            }

    return asyncio.run(send())


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("sent", ["nothing", "unknown key", "key without `Bearer`"])
def test_every_route_but_health_needs_a_key(key_file, key_of, routes, sent):
    headers = {
        "nothing": {},
        "unknown key": bearer("lens-wrong"),
        "key without `Bearer`": {"Authorization": key_of["read"]},
    }[sent]
    for (method, path), status in statuses(key_file, routes, headers).items():
        assert status == (200 if path == "/health" else 401), (method, path)


def test_refusal_asks_for_a_bearer_key(key_file, key_of):
    async def send():
        async with gateway(keys=key_file) as http:
            response = await http.get("/v1/models")
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
            # The status does not reveal which paths exist.
            assert (await http.get("/nope")).status_code == 401
            assert (await http.get("/docs")).status_code == 200
            assert (await http.get("/openapi.json")).status_code == 200

    asyncio.run(send())


def test_read_key_opens_every_route_that_does_not_write(key_file, key_of, routes):
    for (method, path), status in statuses(key_file, routes, bearer(key_of["read"])).items():
        writes = path.startswith("/v1/items") and method != "GET"
        assert (status == 403) == writes, (method, path)


def test_metrics_key_opens_only_the_metrics(key_file, key_of, routes):
    for (method, path), status in statuses(key_file, routes, bearer(key_of["metrics"])).items():
        assert (status == 403) == (path not in ("/metrics", "/health")), (method, path)


def test_write_key_writes_and_reads(key_file, key_of):
    async def send():
        async with gateway(keys=key_file) as http:
            http.headers.update(bearer(key_of["write"]))
            body = {"items": [{"id": "a", "text": "b"}]}
            assert (await http.post("/v1/items", json=body)).status_code == 200
            assert (await http.get("/v1/items/a")).status_code == 200

    asyncio.run(send())


def test_removed_key_is_refused_from_the_next_request_on(key_file, key_of):
    async def send():
        async with gateway(keys=key_file) as http:
            http.headers.update(bearer(key_of["read"]))
            assert (await http.get("/metrics")).status_code == 200
            keys.remove(key_file, "a-read")
            assert (await http.get("/metrics")).status_code == 401

    asyncio.run(send())


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/items/delete", "write"),
        ("GET", "/v1/items/x", "read"),
        ("POST", "/v1/search", "read"),
        ("GET", "/metrics", "metrics"),
    ],
)
def test_scope_depends_on_method_and_path(method, path, scope):
    assert required_scope(method, path) == scope


def test_file_contains_no_key_and_only_its_owner_can_read_it(key_file, key_of):
    text = key_file.read_text()
    assert not any(key in text for key in key_of.values())
    assert key_file.stat().st_mode & 0o077 == 0
    assert [(key.name, key.scope) for key in keys.load(key_file)] == [
        ("a-metrics", "metrics"),
        ("a-read", "read"),
        ("a-write", "write"),
    ]


@pytest.mark.parametrize(
    ("name", "scope"), [("a", "read"), ("b\n", "read"), ("", "read"), ("c", "admin")]
)
def test_name_that_is_taken_or_invalid_is_refused(key_file, name, scope):
    keys.add(key_file, "a", "read")
    with pytest.raises(InvalidInputError):
        keys.add(key_file, name, scope)


def test_unknown_name_cannot_be_removed(key_file):
    keys.add(key_file, "a", "read")
    with pytest.raises(InvalidInputError, match="no key 'z'"):
        keys.remove(key_file, "z")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"keys": [{}]}', '{"keys": [{"name": "a", "scope": "x", "sha256": ""}]}'],
)
def test_malformed_file_is_refused(key_file, text):
    key_file.write_text(text)
    with pytest.raises(InvalidInputError, match="not a file of keys"):
        keys.KeyFile(key_file)


def test_missing_file_is_refused(key_file):
    with pytest.raises(InvalidInputError, match="cannot read"):
        keys.KeyFile(key_file)


def test_gateway_without_keys_does_not_listen_beyond_this_machine():
    with pytest.raises(InvalidInputError, match="open to other machines"):
        Gateway(GatewaySettings(host="0.0.0.0"))
