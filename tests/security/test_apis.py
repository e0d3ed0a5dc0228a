"""Triton's APIs that change the server or reveal its state are closed; the others are open."""

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from lensemble_client import Client
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

CLOSED_HTTP = {
    "load": ("POST", "repository/models/qwen3_vl/load"),
    "unload": ("POST", "repository/models/qwen3_vl/unload"),
    "index": ("POST", "repository/index"),
    "register": ("POST", "systemsharedmemory/region/x/register"),
    "regions": ("GET", "systemsharedmemory/status"),
    "cuda": ("GET", "cudasharedmemory/status"),
    "trace": ("POST", "trace/setting"),
    "logging": ("POST", "logging"),
}
CLOSED_GRPC = {
    "load": lambda client: client.load_model("qwen3_vl"),
    "index": lambda client: client.get_model_repository_index(),
    "register": lambda client: client.register_system_shared_memory("x", "/x", 1),
    "regions": lambda client: client.get_system_shared_memory_status(),
    "trace": lambda client: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}),
    "logging": lambda client: client.update_log_settings({"log_verbose_level": 9}),
}


@pytest.mark.parametrize("name", CLOSED_HTTP)
def test_api_is_closed_over_http(server, name):
    method, path = CLOSED_HTTP[name]
    for headers in ({}, {"admin-key": ""}, {"admin-key": "guess"}):
        response = httpx.request(
            method,
            f"{server.http_url}/v2/{path}",
            headers=headers,
            json={},
            timeout=DEADLINE_S,
        )
        assert response.status_code == 403, response.text
        assert "admin-key" in response.text


@pytest.mark.parametrize("name", CLOSED_GRPC)
def test_api_is_closed_over_grpc(server, name):
    with triton.InferenceServerClient(server.grpc_url.split("//")[1]) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            CLOSED_GRPC[name](client)


def test_apis_that_callers_need_are_open(server):
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            assert client.health()
            assert all(client.status().models.values())
            assert client.search("x", top_k=1)
