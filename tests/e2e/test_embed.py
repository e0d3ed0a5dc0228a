"""Vectors of the real server, over gRPC and HTTP, against the reference."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, InvalidInputError
from lensemble_client.transports.sync_transports import GrpcTransport, HttpTransport
from lensemble_contract import contract
from lensemble_contract.items import to_rows
from tests.batches import Passes
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import CASES, mixed_batch
from tests.parity.test_reference import MIN_COSINE, cosine
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("case", CASES)
def test_served_vector_equals_the_reference(client, expected, case):
    item = CASES[case]
    vector = client.embed(item.text, list(item.images) or None, instruction=item.instruction)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert cosine(vector, expected(EMBEDDING, case)) >= MIN_COSINE["fp32"]


@pytest.mark.parametrize(
    ("profile", "dtype"),
    [pytest.param(MEAN, "fp32", marks=pytest.mark.slow), (MEAN, "bf16"), (EMBEDDING, "bf16")],
)
def test_other_profiles_and_precisions(checkpoints, expected, profile, dtype):
    settings = Settings(checkpoint=checkpoints[profile], dtype=dtype)
    with TritonServer(settings) as server:
        for url in (server.grpc_url, server.http_url):
            with Client(url) as client:
                vectors = client.embed_many(CASES.values())
            for case, vector in zip(CASES, vectors, strict=True):
                assert cosine(vector, expected(profile, case)) >= MIN_COSINE[dtype], case


def test_vector_is_the_same_alone_and_among_32_callers(client):
    items = mixed_batch()
    alone = [client.embed(i.text, i.images or None, instruction=i.instruction) for i in items]
    for batch_size in (1, 1, 4, 32):
        together = client.embed_many(items, concurrency=32, batch_size=batch_size)
        for single, batched in zip(alone, together, strict=True):
            np.testing.assert_allclose(single, batched, atol=1e-5)


def test_dimensions_survive_batching(client):
    """Sixteen callers at the same time, each with another length."""
    full = client.embed("the same text")

    def cut(dimensions):
        return client.embed("the same text", dimensions=dimensions)

    lengths = [64 + 12 * n for n in range(16)] * 2
    with ThreadPoolExecutor(16) as pool:
        for length, vector in zip(lengths, pool.map(cut, lengths), strict=True):
            assert len(vector) == length
            expected = full[:length] / np.linalg.norm(full[:length])
            np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_one_request_may_hold_many_items(server, client, protocol):
    """Shorter rows are padded in the request, and the padding changes no vector."""
    address = (server.grpc_url if protocol == "grpc" else server.http_url).split("//")[1]
    transport = (GrpcTransport if protocol == "grpc" else HttpTransport)(address)
    names = ("text", "picture_portrait", "several_pictures", "text_with_instruction", "both")
    items = [CASES[name] for name in names]
    vectors = transport.infer(contract.EMBED, to_rows(items), {"dimensions": 64}, DEADLINE_S)[
        "embedding"
    ]
    assert vectors.shape == (5, 64)
    for item, vector in zip(items, vectors, strict=True):
        alone = client.embed(
            item.text, item.images or None, instruction=item.instruction, dimensions=64
        )
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    rows = to_rows([*items, *items[1:2]])
    rows["image"][5, 0] = b"broken"
    with pytest.raises(InvalidInputError, match=r"image\[0\]: not a picture .*\(row 5 of 6\)"):
        transport.infer(contract.EMBED, rows, {}, DEADLINE_S)
    transport.close()


def test_texts_and_pictures_share_batches(server):
    """Requests of different shapes must be computed together, or batching has no effect."""
    passes = Passes(server)
    with Client(server.grpc_url) as client:
        results = client.embed_many(mixed_batch() * 4, concurrency=32, batch_size=1)
    items, count = passes.since()
    assert len(results) == 128
    assert items / count > 2
