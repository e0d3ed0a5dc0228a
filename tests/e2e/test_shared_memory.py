"""Inputs through shared memory: the same answers, and nothing left behind, however it ends."""

import asyncio
import io
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Client
from lensemble_client.transports.registration import GrpcRegistrar, HttpRegistrar
from lensemble_client.transports.shared_memory import LEAST_BYTES, SLOTS, Pool
from lensemble_client.transports.sync_transports import GrpcTransport, HttpTransport
from lensemble_client.transports.wire import Placed
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
)
from lensemble_contract.items import Item, to_rows

pytestmark = pytest.mark.e2e

OBJECTS = Path("/dev/shm")


def noise(seed: int, side: int = 150) -> bytes:
    """A picture of about 3 * side * side bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "BMP")
    return written.getvalue()


PICTURES = [noise(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def server(checkpoint, index_folder):
    settings = Settings(checkpoint=checkpoint, index=index_folder, dtype="fp32")
    with TritonServer(settings, shared_memory=True) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def scheme(request):
    return request.param


@pytest.fixture
def url(server, scheme):
    return server.grpc_url if scheme == "grpc" else server.http_url


@pytest.fixture
def registrar(url, scheme):
    return (GrpcRegistrar if scheme == "grpc" else HttpRegistrar)(url.partition("://")[2])


@pytest.fixture
def sent(monkeypatch):
    """Inputs as they were handed to the wire."""
    seen = []
    for kind in (GrpcTransport, HttpTransport):

        def infer(self, model, rows, *rest, original=kind.infer):
            seen.append(rows)
            return original(self, model, rows, *rest)

        monkeypatch.setattr(kind, "infer", infer)
    return seen


@pytest.fixture(autouse=True)
def nothing_left_behind(server):
    """No object of a client has a name, and no region of one stays registered."""
    before = objects()
    yield
    assert objects() == before
    assert mine(GrpcRegistrar(server.grpc_url.partition("://")[2])) == []


def objects() -> set[str]:
    return {path.name for path in OBJECTS.iterdir() if path.name.startswith("psm_")}


def mine(registrar) -> list[str]:
    return [name for name in registrar.regions() if f"-{os.getpid()}-" in name]


def placed(rows) -> list[str]:
    return [name for name, value in rows.items() if isinstance(value, Placed)]


def test_the_same_vectors_as_over_the_wire(url, registrar, sent):
    with Client(url) as wire, Client(url, shared_memory=True) as client:
        for picture in PICTURES[:2]:
            assert np.array_equal(client.embed("noise", picture), wire.embed("noise", picture))
        several = Item.of(None, PICTURES[:3], None)
        assert np.array_equal(client.embed(image=several.images), wire.embed(image=several.images))
        assert [placed(rows) for rows in sent] == [["image"], [], ["image"], [], ["image"], []]
        assert len(mine(registrar)) == 1 and objects() == set()
    with Client(url, shared_memory=True) as client:  # no region for texts; several items
        client.embed("a text")
        assert mine(registrar) == []
        rows = to_rows([Item.of(None, one, None) for one in PICTURES])
        found = client.infer(contract.EMBED.giving(contract.EMBEDDING), rows, {}, None)
        assert placed(sent[-1]) == ["image"]
    with Client(url) as wire:
        for vector, picture in zip(found["embedding"], PICTURES, strict=True):
            assert vector @ wire.embed(image=picture) > 0.99999


def test_numbers_lie_there_as_they_are(url, sent):
    with Client(url) as wire, Client(url, shared_memory=True) as client:
        made = wire.infer(
            contract.PREPROCESS.giving(*contract.FEATURES, contract.DEADLINE),
            to_rows([Item.of(None, PICTURES[0], None)]),
            {},
            None,
        )
        assert made["patches"].nbytes >= LEAST_BYTES
        model = contract.QWEN3_VL.giving(contract.EMBEDDING)
        once = client.infer(model, made, {}, None)["embedding"]
        assert placed(sent[-1]) == ["patches"]
        assert np.array_equal(once, wire.infer(model, made, {}, None)["embedding"])


def test_asyncio(url, registrar, sent):
    async def ask() -> list[np.ndarray]:
        async with AsyncClient(url, shared_memory=True) as client:
            first = await client.embed(image=PICTURES[0])
            assert len(mine(registrar)) == 1
            rest = await client.embed_many([Item.of(None, one, None) for one in PICTURES[1:]])
            with pytest.raises(InvalidInputError, match="image"):
                await client.embed(image=b"no picture" * LEAST_BYTES)
            return [first, *rest]

    with Client(url) as wire:
        for vector, picture in zip(asyncio.run(ask()), PICTURES, strict=True):
            assert vector @ wire.embed(image=picture) > 0.99999


def test_many_threads_on_few_slots(server, monkeypatch, sent):
    monkeypatch.setattr("lensemble_client.transports.shared_memory.SLOTS", 3)
    with Client(server.grpc_url) as wire:
        expected = [wire.embed(image=picture) for picture in PICTURES]
    sent.clear()
    with Client(server.grpc_url, shared_memory=True) as client, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda n: client.embed(image=PICTURES[n % 4]), range(24)))
    for n, vector in enumerate(found):
        assert vector @ expected[n % 4] > 0.99999
    assert 0 < sum(placed(rows) == ["image"] for rows in sent) < 24  # the others found no slot


def test_errors_keep_their_class_and_slots_come_back(url):
    with Client(url, shared_memory=True) as client:
        for _ in range(SLOTS + 1):
            with pytest.raises(InvalidInputError, match=r"image\[0\]") as raised:
                client.embed(image=b"no picture" * LEAST_BYTES)
            assert raised.value.field == "image[0]"
        assert len(client._transport._pool._region._free) == SLOTS


def test_too_large_goes_over_the_wire(server, monkeypatch, sent):
    monkeypatch.setattr(
        "lensemble_client.transports.shared_memory.SLOT_BYTES", len(PICTURES[0]) + 4
    )
    with Client(server.grpc_url, shared_memory=True) as client:
        client.embed(image=noise(5, side=152))
        assert placed(sent[-1]) == []
        client.embed(image=PICTURES[0])  # just fits
        assert placed(sent[-1]) == ["image"]


def test_a_slot_without_an_answer_is_not_used_again(server):
    with Client(server.grpc_url, shared_memory=True) as client:
        client.embed(image=PICTURES[0])
        pool = client._transport._pool
        first = pool._region
        for n in range(SLOTS):
            with pytest.raises(DeadlineExceededError):
                client.embed(image=PICTURES[n % 4], timeout_s=0.001)
        assert first.spent
        # A new region, once the server has done with what was given up.
        deadline = time.monotonic() + 30
        while pool._region is first and time.monotonic() < deadline:
            pool._not_before = 0.0
            client.embed(image=PICTURES[0])
        assert pool._region is not first and len(pool._region._free) == SLOTS


class Refusing:
    """A server that takes no shared memory."""

    asked = 0

    def regions(self):
        return []

    def register(self, name, key, size):
        self.asked += 1
        raise InternalError(f"Unable to open shared memory region: '{key}'")

    def unregister(self, name):
        raise AssertionError(name)


def test_refused_once_is_refused_for_good(server, caplog, sent):
    with Client(server.grpc_url, shared_memory=True) as client:
        client._transport._pool._registrar = refusing = Refusing()
        with caplog.at_level(logging.WARNING):
            for picture in PICTURES[:3]:
                client.embed(image=picture)
    assert refusing.asked == 1
    assert [record.name for record in caplog.records] == [
        "lensemble_client.transports.shared_memory"
    ]
    assert "Unable to open" in caplog.text
    assert not any(placed(rows) for rows in sent)


def test_another_mount_namespace_is_refused_by_the_server_itself(registrar):
    with pytest.raises(InternalError, match="Unable to open shared memory region"):
        registrar.register("elsewhere", "/lensemble-not-there", 4096)


def test_a_full_memory_goes_over_the_wire(server, monkeypatch, sent):
    def full(file, offset, count):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Client(server.grpc_url, shared_memory=True) as client:
        client.embed(image=PICTURES[0])
    assert placed(sent[-1]) == []


def test_a_server_that_lost_the_region_gets_a_new_one(url, registrar, sent):
    with Client(url, shared_memory=True) as client:
        vector = client.embed(image=PICTURES[0])
        (name,) = mine(registrar)
        registrar.unregister(name)  # as if it had been started anew
        assert client.embed(image=PICTURES[0]) @ vector > 0.99999
        assert [placed(rows) for rows in sent] == [["image"], ["image"], []]
        client.embed(image=PICTURES[0])
        assert placed(sent[-1]) == ["image"] and mine(registrar) != [name]
    pool = Pool(registrar)
    assert not pool.lost({"image": Placed("r", 0, 1, (1, 1))}, NotFoundError("no model 'x'"))


DYING = """
import sys
from lensemble_client import Client
client = Client(sys.argv[1], shared_memory=True)
picture = open(sys.argv[2], "rb").read()
client.embed(image=picture)
print("embedded", flush=True)
while True:
    client.embed(image=picture)
"""


def test_a_killed_client_leaves_nothing(server, tmp_path):
    registrar = GrpcRegistrar(server.grpc_url.partition("://")[2])
    (tmp_path / "picture").write_bytes(PICTURES[0])
    child = subprocess.Popen(
        [sys.executable, "-c", DYING, server.grpc_url, str(tmp_path / "picture")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"embedded\n"
        assert objects() == set()
        os.kill(child.pid, signal.SIGKILL)
    its = [name for name in registrar.regions() if f"-{child.pid}-" in name]
    assert len(its) == 1  # the server's mapping, until ...
    deadline = time.monotonic() + 30
    while its[0] in registrar.regions() and time.monotonic() < deadline:
        with Client(server.grpc_url, shared_memory=True) as client:  # ... the next client
            client.embed(image=PICTURES[1])
    assert its[0] not in registrar.regions()


def test_a_living_client_keeps_its_region(server, sent):
    registrar = GrpcRegistrar(server.grpc_url.partition("://")[2])
    with Client(server.grpc_url, shared_memory=True) as one:
        one.embed(image=PICTURES[0])
        with Client(server.grpc_url, shared_memory=True) as other:
            other.embed(image=PICTURES[1])
            assert len(mine(registrar)) == 2
        one.embed(image=PICTURES[2])
        assert placed(sent[-1]) == ["image"]
