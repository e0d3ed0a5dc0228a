"""A slow encoder: texts pass pictures, and nothing that was taken over is lost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, InvalidInputError, Item, Retry
from tests.batches import Batches
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e

SLOW = """

class Slow(EncodeStage):
    def run(self, rows):
        import time
        time.sleep(sum(0.2 if len(features.patches) else 0.01 for features, *_ in rows))
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Slow, args)
"""
PICTURE = encode(textured(64, 64))


@pytest.fixture
def slow(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    repository = write_repository(settings, tmp_path / "models")
    model = repository / "qwen3_vl" / "1" / "model.py"
    model.write_text(model.read_text() + SLOW)
    with TritonServer(settings, repository=repository) as server:
        yield server


def timed(client, item):
    """The vector, and when it came."""
    vector = client.embed(item.text, list(item.images) or None)
    return vector, time.monotonic()


def test_text_passes_pictures_that_came_before_it(slow):
    with Client(slow.grpc_url, retry=Retry(tries=1)) as client, ThreadPoolExecutor(64) as pool:
        alone, _ = timed(client, Item("a red car"))
        waiting = Batches(slow, "preprocess")
        pictures = [pool.submit(timed, client, Item(images=(PICTURE,))) for _ in range(30)]
        assert waiting.since(30)[0] >= 30
        waiting.close()
        text, came = timed(client, Item("a red car"))
        waited = [one.result() for one in pictures]
    np.testing.assert_allclose(text, alone, atol=1e-5)
    for vector, _ in waited[1:]:
        np.testing.assert_allclose(vector, waited[0][0], atol=1e-5)
    # Thirty pictures are 6 s of work, and the text waits for a pass or two: 13 to 29 came later
    # here, and with one lane for all 4, those of its own pass.
    assert sum(later > came for _, later in waited) >= 8


def test_everything_that_was_taken_over_is_answered_when_the_server_stops(slow):
    answers = []

    def ask(n):
        with Client(slow.grpc_url, retry=Retry(tries=1)) as client:
            answers.append(client.embed(image=PICTURE))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    slow.stop()
    for thread in threads:
        thread.join()
    assert len(answers) == 20


def test_bad_rows_and_rows_of_one_request_in_lanes(slow):
    """Errors go to their callers, and the rows of a request come back in order."""
    texts = [Item(f"a car {n}") for n in range(30)]
    with Client(slow.grpc_url, retry=Retry(tries=1)) as client, ThreadPoolExecutor(64) as pool:
        alone = client.embed_many(texts, concurrency=1)
        pictures = [pool.submit(timed, client, Item(images=(PICTURE,))) for _ in range(10)]
        time.sleep(0.3)
        together = client.embed_many(texts, batch_size=30)
        with pytest.raises(InvalidInputError, match="dimensions"):
            client.embed("a car", dimensions=7)
        for one in pictures:
            one.result()
        assert all(client.status().models.values())
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
