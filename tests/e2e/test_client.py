"""Both clients on both wires through the real server: the same answers, and nothing left open."""

import asyncio

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

pytestmark = pytest.mark.e2e
WORDS = [f"{'word ' * (n % 7)}{n}" for n in range(150)]


@pytest.fixture(params=["grpc", "http"])
def url(server, request):
    return {"grpc": server.grpc_url, "http": server.http_url}[request.param]


def test_many_are_the_same_as_one_by_one(url):
    picture = encode(textured(80, 60))
    items = [*map(Item, WORDS), Item(images=(picture,)), Item("with it", (picture,)), Item("")]
    items.insert(40, Item("word " * 9000))
    with Client(url) as client:
        found = client.embed_many(iter(items))
        assert len(found) == len(items)
        for place in (0, 39, 41, 99, 151, 152):
            alone = client.embed(items[place].text, list(items[place].images) or None)
            assert float(alone @ found[place]) > 0.999
        assert isinstance(found[40], InvalidInputError), "too long"
        assert isinstance(found[-1], InvalidInputError), "nothing"
        assert sum(isinstance(one, np.ndarray) for one in found) == len(items) - 2

    async def many():
        async with AsyncClient(url) as client:
            return await client.embed_many(iter(items))

    for one, other in zip(found, asyncio.run(many()), strict=True):
        if isinstance(one, np.ndarray):
            assert float(one @ other) > 0.999
        else:
            assert str(one) == str(other)


def test_asyncio_asks_and_is_answered_as_threads_are(url):
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


def test_cancelled_and_late_calls_leave_the_client_usable(url):
    slow = encode(textured(1300, 1300, 1), "JPEG")

    async def ask():
        async with AsyncClient(url) as client:
            call = asyncio.create_task(client.embed(image=[slow] * 3))
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises((asyncio.CancelledError, CancelledError)):
                await call
            with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.001 s"):
                await client.embed(image=[slow] * 3, timeout_s=0.001)
            return await client.embed("x")

    assert asyncio.run(ask()).shape == (256,)


def test_asyncio_writes(checkpoint, tmp_path):
    """Upserts, deletes, resumed ingestion, as `tests/e2e/test_store.py` has them with threads."""
    records = [Record(f"r{n}", Item(word), {"n": n}) for n, word in enumerate(WORDS[:40])]

    async def write(url):
        async with AsyncClient(url) as client:
            first = await client.ingest_many(records)
            assert await client.ingest_many(records) == first, "nothing is done twice"
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


def test_embedder_as_its_users_wrote_it(server, tmp_path):
    paths = []
    for n in range(5):
        paths.append(tmp_path / f"{n}.png")
        paths[-1].write_bytes(encode(textured(64, 48 + n, n)))
    contexts = [f"damage {n}" for n in range(5)]
    with Qwen3VLEmbedder(server.grpc_url) as embedder:
        found = embedder.generate_batch_embeddings(paths, contexts)
        assert found.shape == (5, 256)
        for path, context, vector in zip(paths, contexts, found, strict=True):
            assert float(embedder.generate_embedding(str(path), context) @ vector) > 0.999
        (tmp_path / "3.png").write_bytes(b"no picture")
        with pytest.raises(InvalidInputError, match=r"^\[3\]\.image\[0\]: not a picture"):
            embedder.generate_batch_embeddings(paths, contexts)
