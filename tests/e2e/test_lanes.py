"""Lanes on the real server: texts pass pictures, and no request that was queued is lost."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.scheduling.lanes import BULK, PICTURE, TEXT
from lensemble_client import Client, InvalidInputError, Item, Retry
from tests.gated_encoder import gated_server
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e

PICTURE_ITEM = Item(images=(encode(textured(64, 64)),))
ONCE = Retry(tries=1)


@pytest.fixture
def gated(checkpoint, tmp_path):
    with gated_server(checkpoint, tmp_path) as gated:
        yield gated


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def queue_pictures(gated, pool, requests):
    """Sends requests of two pictures each: one picture is in a pass, the others wait."""
    answers = [pool.submit(gated.embed_two, PICTURE_ITEM) for _ in range(requests)]
    until(lambda: gated.waiting(PICTURE) == 2 * requests - 1, "the queue of pictures")
    return answers


def test_text_passes_pictures_that_came_before_it(gated, pool):
    with Client(gated.server.grpc_url, timeout_s=DEADLINE_S, retry=ONCE) as client:
        alone = client.embed("a red car")
        with gated.closed():
            pictures = queue_pictures(gated, pool, requests=10)
            started = len(gated.passes)
            text = pool.submit(client.embed, "a red car")
            until(lambda: gated.waiting(TEXT) == 1)
        np.testing.assert_allclose(text.result(), alone, atol=1e-5)
        vectors = [vector for answer in pictures for vector in answer.result()]
    # The next pass begins with the text; without lanes, its turn would come after 19 pictures.
    assert "text" in gated.passes[started]
    for vector in vectors:
        np.testing.assert_allclose(vector, vectors[0], atol=1e-5)


def test_queued_requests_are_answered_when_the_server_stops(gated, pool):
    with gated.closed():
        answers = queue_pictures(gated, pool, requests=10)
        os.kill(gated.server.pid, signal.SIGTERM)
        until(lambda: "Waiting for in-flight requests" in gated.server.log_file.read_text())
    assert all(len(answer.result()) == 2 for answer in answers)
    assert gated.server.wait() == 0


def test_rows_of_one_request_keep_their_order_in_lanes(gated, pool):
    texts = [Item(f"a car {n}") for n in range(30)]
    with Client(gated.server.grpc_url, timeout_s=DEADLINE_S, retry=ONCE) as client:
        alone = client.embed_many(texts, concurrency=1, batch_size=1)
        with gated.closed():
            pictures = queue_pictures(gated, pool, requests=3)
            together = pool.submit(client.embed_many, texts, batch_size=30)
            until(lambda: gated.waiting(BULK) == 30)
            # An error is answered at once, although others wait.
            with pytest.raises(InvalidInputError, match="dimensions"):
                client.embed("a car", dimensions=7)
        for vector, expected in zip(together.result(), alone, strict=True):
            np.testing.assert_allclose(vector, expected, atol=1e-5)
        for answer in pictures:
            assert len(answer.result()) == 2
        assert all(client.status().models.values())
