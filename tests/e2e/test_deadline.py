"""Requests that nobody waits for any more cost nothing."""

import json
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, DeadlineExceededError, InvalidInputError
from lensemble_contract import contract

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
            with pytest.raises(DeadlineExceededError, match=r"before (preprocess|qwen3_vl) began"):
                client.infer(model, TEXT, {"timeout_ms": 0.001}, 30)
        assert encoded(server, client) == before
        client.embed("a red car")
        assert encoded(server, client) == before + 1


SLOW = """

class Slow(EncodeStage):
    def run(self, rows):
        import time
        time.sleep(0.05 * len(rows))
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Slow, args)
"""


def test_callers_who_left_leave_no_work_behind(checkpoint, tmp_path):
    """They gave up after 0.3 s; what waited for the model then is dropped, not computed."""
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    repository = write_repository(settings, tmp_path / "models")
    model = repository / "qwen3_vl" / "1" / "model.py"
    model.write_text(model.read_text() + SLOW)

    def ask(number):
        with Client(server.grpc_url, timeout_s=0.3) as client:
            try:
                client.embed(f"a car, {number}")
            except DeadlineExceededError:
                return 1
        return 0

    with (
        TritonServer(settings, repository=repository) as server,
        Client(server.grpc_url) as client,
        ThreadPoolExecutor(48) as pool,
    ):
        before = encoded(server, client)
        gone = sum(pool.map(ask, range(48)))
        client.embed("a text that comes after them")
        assert gone > 30
        # The text, its pings, and those who were answered or had been begun.
        assert encoded(server, client) - before <= 48 - gone + 10


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
