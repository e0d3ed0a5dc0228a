"""More requests than a slow encoder can compute: some are refused, the others are answered."""

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
from tests.waiting import DEADLINE_S

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
RATE, MIN_REQUESTS, MAX_REQUESTS = 300, 400, 20_000


async def burst(url):
    """Sends requests until texts and pictures are refused; then one text, and one large call.

    Returns the answers by kind, the results of the large call, and the vector of the text.
    """
    picture = encode(textured(32, 32))
    answers = {"text": [], "picture": []}

    def both_kinds_refused():
        return all(
            any(isinstance(answer, OverloadedError) for answer in of_kind)
            for of_kind in answers.values()
        )

    async with AsyncClient(url, timeout_s=DEADLINE_S, retry=Retry(tries=1)) as client:

        async def ask(number):
            kind = "picture" if number % 2 else "text"
            try:
                answer = await client.embed(
                    "x" if kind == "text" else None, image=(picture if kind == "picture" else None)
                )
            except LensembleError as error:
                answer = error
            answers[kind].append(answer)

        async with asyncio.TaskGroup() as tasks:
            for number in range(MAX_REQUESTS):
                tasks.create_task(ask(number))
                await asyncio.sleep(1 / RATE)
                if number > MIN_REQUESTS and both_kinds_refused():
                    break
        vector = await client.embed("x")
    # A client that sends many items repeats those that are refused.
    items = [Item(str(number), (picture,)) for number in range(200)]
    async with AsyncClient(url, timeout_s=DEADLINE_S) as client:
        many = await client.embed_many(items, concurrency=64)
    return answers, many, vector


def refused_so_far(url):
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r"^lensemble_refused_total\{.*\} (\S+)$", text, re.M)))


def test_requests_that_would_wait_too_long_are_refused(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, dtype="fp32", max_wait_s=1.0)
    repository = write_repository(settings, tmp_path / "models")
    model = repository / "qwen3_vl" / "1" / "model.py"
    model.write_text(model.read_text() + SLOW)
    with Supervisor(TritonServer(settings, repository=repository)) as supervisor:
        answers, many, vector = asyncio.run(burst(supervisor.server.grpc_url))
        assert supervisor.state.restarts == {}
        counted = refused_so_far(supervisor.server.metrics_url)
    refused = {
        kind: sum(isinstance(answer, OverloadedError) for answer in of_kind)
        for kind, of_kind in answers.items()
    }
    answered = [answer for answer in answers["text"] if isinstance(answer, np.ndarray)]
    for of_kind in answers.values():
        assert all(isinstance(answer, OverloadedError | np.ndarray) for answer in of_kind)
    assert all(isinstance(answer, np.ndarray) for answer in many)
    assert counted > sum(refused.values()), "no item of the large call was refused"
    # tests/unit/scheduling/test_admission.py tests how many are refused; here the machine may be
    # busy.
    assert min(refused.values()) > 0
    assert len(answered) > MIN_QUEUE
    for answer in answered:
        np.testing.assert_allclose(answer, vector, atol=1e-5)
