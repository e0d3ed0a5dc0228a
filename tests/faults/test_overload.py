"""More than a slow encoder can do: refused before any work, and over when the burst is."""

import asyncio
import re
import urllib.request

import numpy as np
import pytest

from lensemble.operations.model_repository import write_repository
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.admission import MIN_QUEUE
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Item, Retry
from lensemble_contract.errors import LensembleError, OverloadedError
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e

SLOW = """

class Slow(EncodeStage):
    def run(self, rows):
        import time
        time.sleep(0.02 * len(rows))
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Slow, args)
"""
RATE, SECONDS = 300, 4


async def burst(url):
    """Answers by kind: vectors and errors."""
    picture = encode(textured(32, 32))
    found = {"text": [], "picture": []}

    async with AsyncClient(url, timeout_s=60, retry=Retry(tries=1)) as client:

        async def ask(number):
            kind = "picture" if number % 2 else "text"
            try:
                answer = await client.embed(
                    "x" if kind == "text" else None, image=(picture if kind == "picture" else None)
                )
            except LensembleError as error:
                answer = error
            found[kind].append(answer)

        async with asyncio.TaskGroup() as tasks:
            for number in range(RATE * SECONDS):
                tasks.create_task(ask(number))
                await asyncio.sleep(1 / RATE)
        vector = await client.embed("x")
    # A client that sends many makes the load itself, and bears being refused for it.
    items = [Item(str(number), (picture,)) for number in range(200)]
    async with AsyncClient(url, timeout_s=60) as client:
        many = await client.embed_many(items, concurrency=64)
    return found, many, vector


def refused_so_far(url):
    with urllib.request.urlopen(url) as answer:
        said = answer.read().decode()
    return sum(map(float, re.findall(r"^lensemble_refused_total\{.*\} (\S+)$", said, re.M)))


def test_what_would_wait_too_long_is_refused(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, dtype="fp32", max_wait_s=1.0)
    repository = write_repository(settings, tmp_path / "models")
    model = repository / "qwen3_vl" / "1" / "model.py"
    model.write_text(model.read_text() + SLOW)
    with Supervisor(TritonServer(settings, repository=repository)) as watching:
        found, many, vector = asyncio.run(burst(watching.server.grpc_url))
        assert watching.state.restarts == {}
        counted = refused_so_far(watching.server.metrics_url)
    refused = {
        kind: sum(isinstance(one, OverloadedError) for one in every)
        for kind, every in found.items()
    }
    answered = [one for one in found["text"] if isinstance(one, np.ndarray)]
    assert sum(map(len, found.values())) == RATE * SECONDS
    for every in found.values():
        assert all(isinstance(one, OverloadedError | np.ndarray) for one in every)
    assert all(isinstance(one, np.ndarray) for one in many)
    assert counted > sum(refused.values()), "nobody refused what came together"
    # By how much: tests/unit/scheduling/test_admission.py. Here the machine may be busy.
    assert min(refused.values()) > 0
    assert len(answered) > MIN_QUEUE
    for one in answered:
        np.testing.assert_allclose(one, vector, atol=1e-5)
