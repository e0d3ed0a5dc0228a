"""Requests that nobody waits for any more cost nothing."""

import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble_client import Client, DeadlineExceededError, InvalidInputError, contract
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e

TEXT = {"text": np.array([[b"a red car"]], np.object_)}
_VECTORS = re.compile(r'^lensemble_vectors_total\{.*source="encoded".*\} (\S+)$', re.MULTILINE)


def encoded(server, client):
    """Vectors that the model has made."""
    client.health()  # brings metrics up to date
    with urllib.request.urlopen(server.metrics_url) as answer:
        return float(_VECTORS.search(answer.read().decode())[1])


@pytest.mark.parametrize("model", [contract.EMBED, contract.SEARCH])
def test_what_is_late_is_not_computed(server, model):
    with Client(server.grpc_url) as client:
        before = encoded(server, client)
        for _ in range(5):
            with pytest.raises(DeadlineExceededError, match="before qwen3_vl began"):
                client.infer(model, TEXT, {"timeout_ms": 0.001}, 30)
        assert encoded(server, client) == before
        client.embed("a red car")
        assert encoded(server, client) == before + 1


def test_callers_who_left_leave_no_work_behind(server):
    """They gave up after 50 ms; what waited for the model then is dropped, not computed."""
    pictures = [encode(textured(600 + n, 600)) for n in range(32)]

    def ask(picture):
        with Client(server.grpc_url, timeout_s=0.05) as client:
            with pytest.raises(DeadlineExceededError):
                client.embed(image=picture)

    with Client(server.grpc_url) as client:
        before = encoded(server, client)
        with ThreadPoolExecutor(len(pictures)) as pool:
            list(pool.map(ask, pictures))
        client.embed("a text that comes after them")  # FIFO: they are through when it is
        time.sleep(0.5)
        assert encoded(server, client) - before <= len(pictures) / 2


def test_bad_timeout_is_refused(server):
    with Client(server.grpc_url) as client:
        with pytest.raises(InvalidInputError, match="timeout_ms: -1; expected milliseconds"):
            client.infer(contract.EMBED, TEXT, {"timeout_ms": -1}, 30)


def test_over_plain_http(server):
    body = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a car"]}],
        "parameters": {"timeout_ms": 0.001},
    }
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/embed/infer", json.dumps(body).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as answer:
        assert answer.code == 503
        assert "[deadline_exceeded]" in json.load(answer)["error"]
