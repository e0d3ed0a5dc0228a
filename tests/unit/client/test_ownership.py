"""A client in a forked process, in a second event loop, after `close`; and timeouts without end."""

import asyncio
import gc
import json
import math
import os
import subprocess
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensemble_client import AsyncClient, Client, InvalidInputError, NotReadyError, Retry
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from tests.waiting import DEADLINE_S

ONCE = Retry(tries=1)


class KServeHandler(BaseHTTPRequestHandler):
    """Answers every request with name and version of a server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"name": "fake", "version": "1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class KServeServicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The same over gRPC."""

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="fake", version="1")

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)


@pytest.fixture(scope="module")
def urls():
    """URLs of a server that only tells its name, in this process."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), KServeHandler)
    serving = threading.Thread(target=http.serve_forever)
    serving.start()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(KServeServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield {"http": f"http://127.0.0.1:{http.server_port}", "grpc": f"grpc://127.0.0.1:{port}"}
    server.stop(None).wait()
    http.shutdown()
    serving.join()
    http.server_close()


@pytest.fixture(params=["http", "grpc"])
def url(urls, request):
    return urls[request.param]


def name_of(client, timeout_s=DEADLINE_S):
    return client._transport.version(timeout_s)


@pytest.mark.parametrize("timeout_s", [math.inf, 1e12, 1e300])
def test_timeout_without_end_waits_for_the_answer(url, timeout_s):
    with Client(url, timeout_s=timeout_s) as client:
        assert name_of(client, timeout_s) == "fake 1"
        assert client.embedders()

    async def ask():
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            return await client._transport.version(timeout_s)

    assert asyncio.run(ask()) == "fake 1"


@pytest.mark.parametrize("timeout_s", [math.nan, 0, -1, -math.inf, True, "5"])
def test_timeout_that_is_none_is_refused_by_name(url, timeout_s):
    for client_class in (Client, AsyncClient):
        with pytest.raises(
            InvalidInputError, match=r"timeout_s: .*; expected seconds, more than 0"
        ):
            client_class(url, timeout_s=timeout_s)
    with Client(url) as client:
        with pytest.raises(InvalidInputError, match="timeout_s: "):
            client.embed("x", timeout_s=timeout_s)
        with pytest.raises(InvalidInputError, match="timeout_s: "):
            client.health(timeout_s=timeout_s)


def test_closed_client_says_so_and_does_not_blame_the_server(url):
    client = Client(url, retry=ONCE)
    client.close()
    with pytest.raises(NotReadyError, match=r"^this client was closed; make another one$"):
        client.embed("x")

    async def ask():
        client = AsyncClient(url, retry=ONCE)
        await client._transport.version(DEADLINE_S)
        await client.close()
        await client.close()
        await client.embed("x")

    with pytest.raises(NotReadyError, match=r"^this client was closed; make another one$"):
        asyncio.run(ask())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_second_event_loop_is_named_as_the_cause(url):
    """The connection of the first loop can no longer be closed, of which aiohttp warns."""
    client = AsyncClient(url, retry=ONCE)

    async def ask():
        return await client._transport.version(DEADLINE_S)

    assert asyncio.run(ask()) == "fake 1"
    with pytest.raises(InvalidInputError, match="client: it was first used in another event loop"):
        asyncio.run(ask())
    asyncio.run(client.close())
    client = None
    gc.collect()


# Runs in a process of its own, because forking a process with many threads is what is tested, and
# a client that hangs in the child must not take the tests with it.
FORK = """
import os, sys
from lensemble_client import Client

client = Client(sys.argv[1])
client._transport.version({deadline})
child = os.fork()
if child == 0:
    print("child:", client._transport.version({deadline}), flush=True)
    print("again:", client._transport.version({deadline}), flush=True)
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent:", client._transport.version({deadline}))
client.close()
"""


def test_client_that_was_made_before_a_fork_works_in_both_processes(url):
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(deadline=DEADLINE_S), url],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["child: fake 1", "again: fake 1", "parent: fake 1"]


@pytest.mark.parametrize("value", [2**63, "a\0b", "\ud800", math.nan, math.inf, b"x"])
def test_parameter_that_no_protocol_carries_is_not_blamed_on_the_server(url, value):
    with Client(url, retry=ONCE) as client:
        with pytest.raises(LensembleError) as caught:
            client.infer(contract.FAISS, {}, {"like": value})
    assert (type(caught.value), caught.value.field) == (InvalidInputError, "like")
