"""Both clients over both protocols, with a real server: the same answers."""

import asyncio
import re

import httpx
import numpy as np
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import (
    AsyncClient,
    CancelledError,
    Client,
    DeadlineExceededError,
    InvalidInputError,
    Item,
    Qwen3VLEmbedder,
    ReadOnlyError,
    Record,
)
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e
WORDS = [f"{'word ' * (n % 7)}{n}" for n in range(150)]


@pytest.fixture(params=["grpc", "http"])
def url(server, request):
    return {"grpc": server.grpc_url, "http": server.http_url}[request.param]


def test_many_items_have_the_vectors_of_single_calls(url):
    picture = encode(textured(80, 60))
    items = [*map(Item, WORDS), Item(images=(picture,)), Item("with it", (picture,)), Item("")]
    items.insert(40, Item("word " * 9000))
    with Client(url) as client:
        results = client.embed_many(iter(items))
        assert len(results) == len(items)
        for position in (0, 39, 41, 99, 151, 152):
            item = items[position]
            alone = client.embed(item.text, list(item.images) or None)
            assert float(alone @ results[position]) > 0.999
        assert isinstance(results[40], InvalidInputError), "the text is too long"
        assert isinstance(results[-1], InvalidInputError), "the item is empty"
        assert sum(isinstance(result, np.ndarray) for result in results) == len(items) - 2

    async def many():
        async with AsyncClient(url) as client:
            return await client.embed_many(iter(items))

    for result, from_asyncio in zip(results, asyncio.run(many()), strict=True):
        if isinstance(result, np.ndarray):
            assert float(result @ from_asyncio) > 0.999
        else:
            assert str(result) == str(from_asyncio)


def test_both_clients_get_the_same_answers(url):
    async def ask():
        async with AsyncClient(url) as client:
            assert await client.health()
            status = await client.status()
            vector = await client.embed("corazón", dimensions=64)
            hits = await client.search("corazón", top_k=3)
            rows = await client.search_many([Item("corazón"), Item("dog")], top_k=3)
            near = await client.search_vector(await client.embed("corazón"), top_k=3)
            like = await client.more_like(hits[0].id, top_k=2)
            stored = await client.get(hits[0].id)
            stats = await client.stats()
            with pytest.raises(ReadOnlyError):
                await client.ingest("new", "text")
            return status, vector, hits, rows, near, like, stored, stats

    status, vector, hits, rows, near, like, stored, stats = asyncio.run(ask())
    with Client(url) as client:
        assert status == client.status()
        assert client.health()
        assert float(vector @ client.embed("corazón", dimensions=64)) > 0.9999
        asked = client.search("corazón", top_k=3)
        assert [hit.id for hit in hits] == [hit.id for hit in asked]
        assert [[hit.id for hit in row] for row in rows] == [
            [hit.id for hit in row]
            for row in client.search_many([Item("corazón"), Item("dog")], top_k=3)
        ]
        assert [hit.id for hit in rows[0]] == [hit.id for hit in near] == [hit.id for hit in hits]
        assert like == client.more_like(hits[0].id, top_k=2)
        assert hits[0].id not in {hit.id for hit in like}
        assert stored.document == client.get(hits[0].id).document
        assert stats["count"] == client.stats()["count"]


async def answered_by_preprocess(server):
    """Number of requests that `preprocess` has answered; the encoder gets them next."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        metrics = (await http.get(server.metrics_url)).text
    (count,) = re.findall(r'nv_inference_request_success{model="preprocess".*} (\S+)', metrics)
    return float(count)


def test_client_stays_usable_after_cancelled_and_late_calls(server, url):
    slow = encode(textured(1300, 1300, 1), "JPEG")

    async def ask():
        async with AsyncClient(url, timeout_s=DEADLINE_S) as client:
            before = await answered_by_preprocess(server)
            calls = [asyncio.create_task(client.embed(image=[slow] * 3)) for _ in range(2)]
            async with asyncio.timeout(DEADLINE_S):
                while await answered_by_preprocess(server) == before:
                    await asyncio.sleep(0.02)
            running = [call for call in calls if not call.done()]
            assert running
            for call in running:
                call.cancel()
            for call in running:
                with pytest.raises((asyncio.CancelledError, CancelledError)):
                    await call
            with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.001 s"):
                await client.embed(image=[slow] * 3, timeout_s=0.001)
            return await client.embed("x")

    vector = asyncio.run(ask())
    with Client(url) as client:
        np.testing.assert_allclose(vector, client.embed("x"), atol=1e-5)


def test_asyncio_writes(checkpoint, tmp_path):
    """Upserts, deletions and resumed ingestion; `test_store.py` tests them with `Client`."""
    records = [Record(f"r{n}", Item(word), {"n": n}) for n, word in enumerate(WORDS[:40])]

    async def write(url):
        async with AsyncClient(url) as client:
            first = await client.ingest_many(records)
            assert await client.ingest_many(records) == first, "nothing is stored twice"
            assert sorted(first) == list(range(1, 41))
            stored = await client.get("r3")
            profile = (await client.stats())["profile_hash"]
            await client.upsert(["copy"], stored.embedding[None], [{"n": -1}], profile=profile)
            (hit,) = await client.search_vector(stored.embedding, top_k=1, filter={"n": -1})
            assert hit.id == "copy"
            assert (await client.delete(["copy", "none"]))[1] == 0
            assert (await client.stats())["count"] == 40

    settings = Settings(checkpoint=checkpoint, index=tmp_path / "index", writes="on")
    with TritonServer(settings) as running:
        asyncio.run(write(running.grpc_url))


def test_embedder_gives_the_vectors_of_single_calls(server, tmp_path):
    paths = []
    for n in range(5):
        paths.append(tmp_path / f"{n}.png")
        paths[-1].write_bytes(encode(textured(64, 48 + n, n)))
    contexts = [f"damage {n}" for n in range(5)]
    with Qwen3VLEmbedder(server.grpc_url) as embedder:
        vectors = embedder.generate_batch_embeddings(paths, contexts)
        assert vectors.shape == (5, 256)
        for path, context, vector in zip(paths, contexts, vectors, strict=True):
            assert float(embedder.generate_embedding(str(path), context) @ vector) > 0.999
        (tmp_path / "3.png").write_bytes(b"no picture")
        with pytest.raises(InvalidInputError, match=r"^\[3\]\.image\[0\]: not a picture"):
            embedder.generate_batch_embeddings(paths, contexts)
