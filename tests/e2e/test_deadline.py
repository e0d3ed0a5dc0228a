"""Requests whose deadline has passed are not computed."""

import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.scheduling.lanes import TEXT
from lensemble_client import Client, DeadlineExceededError, InvalidInputError, Item
from lensemble_contract import contract
from lensemble_contract.items import to_rows
from tests.gated_encoder import gated_server
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e

TEXT_ROWS = {"text": np.array([[b"a red car"]], np.object_)}
_VECTORS = re.compile(r'^lensemble_vectors_total\{.*source="encoded".*\} (\S+)$', re.MULTILINE)


def encoded(server, client):
    """Number of vectors that the encoder has computed."""
    client.health()  # updates the metrics
    with urllib.request.urlopen(server.metrics_url) as answer:
        return float(_VECTORS.search(answer.read().decode())[1])


@pytest.mark.parametrize("model", [contract.EMBED, contract.SEARCH])
def test_late_requests_are_not_computed(server, model):
    with Client(server.grpc_url) as client:
        before = encoded(server, client)
        for _ in range(5):
            with pytest.raises(
                DeadlineExceededError, match=r"passed before (preprocess|qwen3_vl) began"
            ):
                client.infer(model, TEXT_ROWS, {"timeout_ms": 0.001}, DEADLINE_S)
        assert encoded(server, client) == before
        client.embed("a red car")
        assert encoded(server, client) == before + 1


def test_queued_requests_are_dropped_when_their_deadline_passes(checkpoint, tmp_path):
    callers = 20
    picture = Item(images=(encode(textured(64, 64)),))

    def embed_within_a_second(number):
        rows = to_rows([Item(f"a car, {number}")])
        return client.infer(contract.EMBED, rows, {"timeout_ms": 1000}, DEADLINE_S)

    with (
        gated_server(checkpoint, tmp_path) as gated,
        Client(gated.server.grpc_url, timeout_s=DEADLINE_S) as client,
        ThreadPoolExecutor(callers + 1) as pool,
    ):
        before = encoded(gated.server, client)
        with gated.closed():
            started = len(gated.passes)
            blocking = pool.submit(gated.embed_two, picture)
            until(lambda: len(gated.passes) > started, "the pass of a picture")
            answers = [pool.submit(embed_within_a_second, number) for number in range(callers)]
            # A busy machine may read some so late that they are dropped before they are queued.
            until(lambda: gated.waiting(TEXT) + sum(each.done() for each in answers) == callers)
            time.sleep(1.1)  # now all deadlines have passed
        assert len(blocking.result()) == 2
        for answer in answers:
            with pytest.raises(DeadlineExceededError, match="passed before qwen3_vl began"):
                answer.result()
        client.embed("a text that comes after them")
        assert encoded(gated.server, client) == before + 3  # two pictures and the last text


def test_bad_timeout_is_refused(server):
    with Client(server.grpc_url) as client:
        with pytest.raises(InvalidInputError, match="timeout_ms: -1; expected milliseconds"):
            client.infer(contract.EMBED, TEXT_ROWS, {"timeout_ms": -1}, DEADLINE_S)


def test_timeout_over_plain_http(server):
    body = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a car"]}],
        "parameters": {"timeout_ms": 0.001},
    }
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/embed/infer", json.dumps(body).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=DEADLINE_S)
    with refused.value as answer:
        assert answer.code == 503
        assert "[deadline_exceeded]" in json.load(answer)["error"]
