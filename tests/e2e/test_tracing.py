"""One trace from the gateway through Triton to its models, and request ids in Triton's log."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, InternalError, request_headers
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Appended to the encoder's model.py: requests with more than 200 tokens fail.
FAIL_ON_LONG_TEXTS = """

_run = EncodeStage.run


def _failing_run(self, rows):
    if any(len(features.input_ids) > 200 for features, *_ in rows):
        raise RuntimeError("made to fail")
    return _run(self, rows)


EncodeStage.run = _failing_run
"""


class Collector:
    """An OpenTelemetry collector: Triton sends its spans as JSON, the gateway as protobuf.

    `spans` has (trace id, parent span id, name) of each span.
    """

    def __init__(self):
        self.spans = []
        self._received = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if "json" in self.headers["Content-Type"]:
                    collector.add(from_json(json.loads(body)))
                else:
                    collector.add(from_protobuf(ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def add(self, spans):
        with self._received:
            self.spans += spans
            self._received.notify_all()

    def names(self, trace):
        return {name for span_trace, _, name in self.spans if span_trace == trace}

    def wait_for_names(self, trace, names):
        """Waits until the trace has spans of these names."""
        with self._received:
            complete = self._received.wait_for(lambda: names <= self.names(trace), DEADLINE_S)
        assert complete, self.names(trace)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def from_json(request):
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield span["traceId"].lower(), span["parentSpanId"].lower(), span["name"]


def from_protobuf(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield span.trace_id.hex(), span.parent_span_id.hex(), span.name


@pytest.fixture(scope="module")
def collector():
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(checkpoint, collector, tmp_path_factory):
    settings = Settings(checkpoint=checkpoint, dtype="fp32", traces=collector.url)
    repository = write_repository(settings, tmp_path_factory.mktemp("repository") / "models")
    model = repository / "qwen3_vl" / "1" / "model.py"
    model.write_text(model.read_text() + FAIL_ON_LONG_TEXTS)
    with TritonServer(settings, repository=repository) as server:
        yield server


def test_one_trace_from_caller_to_models(traced, collector):
    settings = GatewaySettings(
        triton=traced.grpc_url, metrics=traced.metrics_url, port=0, traces=collector.url
    )
    with GatewayServer(settings) as gateway:
        response = httpx.post(
            f"{gateway.url}/v1/embeddings",
            json={"model": "native", "input": "a red car"},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            timeout=DEADLINE_S,
        )
        assert response.status_code == 200
    names = {"POST /v1/embeddings", "embed", "preprocess", "qwen3_vl"}
    collector.wait_for_names(TRACE, names)
    parents = {name: parent for trace, parent, name in collector.spans if trace == TRACE}
    assert parents["POST /v1/embeddings"] == PARENT


def test_id_of_a_failed_request_is_in_tritons_log(traced):
    token = request_headers.request_id.set("order-66")
    try:
        with Client(traced.grpc_url) as client, pytest.raises(InternalError):
            client.embed("word " * 300)
    finally:
        request_headers.request_id.reset(token)
    assert "request order-66: [internal]" in traced.log_file.read_text()


@pytest.mark.parametrize("url_of", ["grpc_url", "http_url"])
def test_id_cannot_forge_a_line_of_the_log(traced, url_of):
    token = request_headers.request_id.set("x\nE1126 00:00:00.000000 1 forged.cc:1] all is lost")
    try:
        with Client(getattr(traced, url_of)) as client, pytest.raises(InternalError):
            client.embed("word " * 300)
    finally:
        request_headers.request_id.reset(token)
    lines = traced.log_file.read_text().splitlines()
    assert not any(line.startswith("E1126 00:00:00.000000") for line in lines)
    assert "request -: [internal]" in traced.log_file.read_text()
