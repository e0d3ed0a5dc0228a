"""`http_proxy` is set: calls to this machine go to this machine."""

import http.server
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensemble.operations.readiness import _is_ready
from lensemble_cli.status import fetch_metrics
from lensemble_client.transports.sync_transports import GrpcTransport, HttpTransport
from lensemble_contract.direct_connections import is_this_machine, with_direct_hosts
from tests.waiting import DEADLINE_S

# By path; a proxy is asked for the whole URL.
TEXTS = {
    "/v2": '{"name": "triton", "version": "1"}',
    "/metrics": "a 1.0\n",
    "http://search.example.com/metrics": "b 2.0\n",
}


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="1")


class Routes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = TEXTS.get(self.path, "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def variables_are_read_again(monkeypatch):
    """`urlopen` reads the proxies' variables in its first call only."""
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that nobody may ask. Its connections are never answered."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture
def grpc_address():
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture
def http_address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Routes)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_clients_reach_this_machine(proxy, grpc_address, http_address):
    for transport in (
        GrpcTransport(grpc_address),
        GrpcTransport(grpc_address.replace("127.0.0.1", "localhost")),
        HttpTransport(http_address),
    ):
        assert transport.version(DEADLINE_S) == "triton 1"
        transport.close()


def test_server_and_status_reach_this_machine(proxy, http_address):
    assert _is_ready(f"http://{http_address}", "embed")
    assert fetch_metrics(f"http://{http_address}/metrics") == {("a", ""): 1.0}


def test_other_machines_are_reached_through_the_proxy(monkeypatch, http_address):
    """A server behind a company's proxy stays reachable."""
    monkeypatch.setenv("http_proxy", f"http://{http_address}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert fetch_metrics("http://search.example.com/metrics") == {("b", ""): 2.0}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("LOCALHOST", True),
        ("::1", True), ("[::1]", True), ("0.0.0.0", True), ("", False), ("10.0.0.1", False),
        ("localhost.example.com", False), ("example.com", False),
    ],
)  # fmt: skip
def test_this_machine_is_known_by_its_addresses(host, expected):
    assert is_this_machine(host) is expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1,10.0.0.7"),
        ({"no_proxy": ".corp, localhost"}, ".corp,localhost,127.0.0.1,::1,10.0.0.7"),
        ({"NO_PROXY": ".corp"}, ".corp,127.0.0.1,localhost,::1,10.0.0.7"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_children_get_no_proxy_for_this_machine(before, expected):
    changed = with_direct_hosts({"PATH": "/bin", **before}, ["10.0.0.7"])
    assert changed["PATH"] == "/bin"
    assert {changed[name] for name in ("no_proxy", "NO_PROXY") if name in changed} == {expected}
