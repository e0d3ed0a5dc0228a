import contextlib
import gc
import socket
import threading
import time

import numpy as np
import pytest

from lensemble_client import (
    Client,
    DeadlineExceededError,
    Hit,
    InvalidInputError,
    NotReadyError,
    Retry,
)
from lensemble_client.transports.sync_transports import Transport
from tests.waiting import DEADLINE_S

AT_ONCE = Retry(tries=3, first_wait_s=0.0)


class RecordingTransport:
    """Records calls. The vector of a text is its length; the scores of hits fall by 0.1."""

    def __init__(self):
        self.calls = []
        self.dead = ""

    def infer(self, model, rows, parameters, timeout_s):
        if parameters.get("ping"):
            if model.name == self.dead:
                raise NotReadyError("Stub process is not healthy")
            return {}
        self.calls.append((model.name, sorted(rows), dict(parameters), timeout_s))
        text = rows["text"][0, 0].decode()
        if text == "bad":
            raise InvalidInputError("bad text", field="text")
        if model.name == "embed":
            return {"embedding": np.full((1, 4), len(text), np.float32)}
        k = parameters["top_k"]
        return {
            "ids": np.array([[f"é{n}".encode() for n in range(k)]], np.object_),
            "scores": np.arange(k, 0, -1, np.float32)[None] / 10,
            "documents": np.array([[b'{"n": %d}' % n for n in range(k)]], np.object_),
        }

    def ready(self, model, timeout_s):
        return model != "search"

    def version(self, timeout_s):
        return "triton 0"

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def transport() -> Transport:
    return RecordingTransport()


def test_embed_returns_one_vector(transport):
    with Client(transport=transport, timeout_s=3) as client:
        assert client.embed("four", dimensions=4).tolist() == [4, 4, 4, 4]
    assert transport.calls == [("embed", ["text"], {"dimensions": 4}, 3), "closed"]


def test_search_returns_hits_in_order(transport):
    hits = Client(transport=transport).search("q", top_k=2, instruction="find", timeout_s=1)
    assert hits == [
        Hit("é0", pytest.approx(0.2), {"n": 0}),
        Hit("é1", pytest.approx(0.1), {"n": 1}),
    ]
    assert transport.calls == [("search", ["instruction", "text"], {"top_k": 2}, 1)]


def test_embed_many_of_nothing_is_nothing(transport):
    assert Client(transport=transport).embed_many([]) == []


def test_status_asks_for_every_model(transport):
    status = Client(transport=transport).status()
    assert status.server == "triton 0"
    assert [name for name, ready in status.models.items() if not ready] == ["search"]


def test_model_with_a_dead_process_is_not_ready_nor_are_its_ensembles(transport):
    transport.dead = "preprocess"
    client = Client(transport=transport)
    models = client.status().models
    assert {name for name, ready in models.items() if not ready} == {
        "preprocess",
        "embed",
        "search",
        "ingest",
    }
    assert not client.health()
    transport.dead = "faiss"
    assert client.health()


@pytest.mark.parametrize(
    "url", ["localhost:8001", "ftp://localhost:8001", "grpc://localhost", "grpc://x:99999"]
)
def test_url_must_name_protocol_and_port(url):
    with pytest.raises(InvalidInputError, match="expected grpc://host:port"):
        Client(url)


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9", "http://127.0.0.1:9"])
def test_unreachable_server_is_not_ready(url):
    with Client(url, retry=AT_ONCE) as client, pytest.raises(NotReadyError):
        client.embed("hello")


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9", "http://127.0.0.1:9"])
def test_closed_client_raises_not_ready(url):
    client = Client(url, retry=AT_ONCE)
    client.close()
    client.close()
    with pytest.raises(NotReadyError, match="closed"):
        client.embed("hello")


def test_client_that_is_not_closed_leaves_no_thread_behind():
    before = set(threading.enumerate())
    client = Client("http://127.0.0.1:9", retry=AT_ONCE)
    with pytest.raises(NotReadyError):
        client.embed("hello")
    threads = set(threading.enumerate()) - before
    assert threads
    del client
    gc.collect()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_deadline_is_for_the_whole_answer_over_http():
    """An answer that comes in small pieces, each in time, is too late as a whole."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.02)

        dripping = threading.Thread(target=drip)
        dripping.start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.2 s"):
                client.embed("hello", timeout_s=0.2)
            dripping.join(DEADLINE_S)
            assert not dripping.is_alive(), "the connection was dropped"
