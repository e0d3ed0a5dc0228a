"""Bad requests fail alone, with a reason; their neighbours in the batch do not notice."""

import gc
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.pictures.bombs import scan_bomb
from lensemble.scheduling.slots import Slots
from lensemble_client import (
    Client,
    DeadlineExceededError,
    InvalidInputError,
    Item,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    Retry,
)
from lensemble_client.transports.sync_transports import GrpcTransport
from lensemble_contract import contract
from tests.pictures import encode, png_header, textured
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

BAD = {
    "no picture": (Item(images=(b"hello",)), r"image\[0\]: not a picture"),
    "truncated": (Item(images=(encode(textured(99, 99))[:999],)), r"image\[0\]: a damaged PNG"),
    "bomb": (Item("x", (png_header(30_000, 30_000),)), r"image\[0\]: .*pixels"),
    "scans": (Item(images=(scan_bomb(),)), r"image\[0\]: 7900x7900 pixels in 900 scans"),
    "thin": (Item(images=(png_header(1, 20_000),)), "too thin"),
    "second of two": (Item(images=(encode(textured(64, 64)), b"x")), r"image\[1\]: not a picture"),
    "too long": (Item("word " * 9000), "text: the prompt has 9.* tokens"),
    "surrogate": (Item("a\ud800b"), "text: not valid UTF-8 at byte 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_item_is_refused_with_its_field(client, name):
    item, reason = BAD[name]
    (error,) = client.embed_many([item])
    assert isinstance(error, InvalidInputError)
    with pytest.raises(InvalidInputError, match=reason):
        raise error


@pytest.mark.parametrize("batch_size", [1, 32])
def test_bad_items_do_not_affect_the_good_ones(client, batch_size):
    """Neither if each item has its own request nor if they share requests."""
    good = [Item(f"text {n}") for n in range(20)]
    expected = client.embed_many(good, concurrency=1)
    mixed = [
        item for n, item in enumerate(good) for item in (item, [*BAD.values()][n % len(BAD)][0])
    ]
    results = client.embed_many(mixed, concurrency=32, batch_size=batch_size)
    assert all(isinstance(result, InvalidInputError) for result in results[1::2])
    for one, other in zip(expected, results[::2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_texts_are_answered_while_large_pictures_have_every_slot(server, client):
    """The test takes the slots of the server's processes, as callers with large pictures do."""
    largest, slots = scan_bomb(12), Slots(server.heartbeats, contract.PREPROCESS.name)
    impatient = Client(server.grpc_url, timeout_s=DEADLINE_S, retry=Retry(tries=1))
    with impatient, ExitStack() as held:
        with pytest.raises(OverloadedError):
            while True:
                held.enter_context(slots.taken("large pictures"))
        with pytest.raises(OverloadedError, match="other large pictures are being worked on"):
            impatient.embed(image=largest)
        assert len(client.embed("a text")) == len(client.embed(image=encode(textured(64, 64))))
    assert len(client.embed(image=largest)) > 0


def test_status_codes_are_the_protocols_own(server):
    """For callers without this package: 400 and INVALID_ARGUMENT, not 500 and INTERNAL."""
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    picture = triton.InferInput("image", [1, 1], "BYTES")
    picture.set_data_from_numpy(np.array([[b"hello"]], np.object_))
    with triton.InferenceServerClient(server.grpc_url.split("//")[1]) as raw:
        with pytest.raises(InferenceServerException) as caught:
            raw.infer("embed", [picture])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [""]}]}
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/embed/infer", json.dumps(body).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=DEADLINE_S)
    with refused.value as answer:
        assert answer.code == 400
        assert "the item is empty" in json.load(answer)["error"]


def features(**change):
    rows = {
        "input_ids": np.array([[5, 6, 7]], np.int32),
        "patches": np.empty((1, 0, 768), np.uint8),
        "image_grid_thw": np.empty((1, 0, 3), np.int32),
        "deadline": np.zeros((1, 1), np.int64),
    }
    return rows | change


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": np.array([[5, 10**6]], np.int32)},
        {"input_ids": np.array([[-1, -1]], np.int32)},
        {"input_ids": np.array([[5, 8190, 6]], np.int32)},
        {"input_ids": np.full((1, 1_000_000), 5, np.int32)},
        {"image_grid_thw": np.array([[[1, 2, 2]]], np.int32)},
        {"image_grid_thw": np.array([[[1, 2**30, 2**30]]], np.int32)},
        {
            "patches": np.zeros((1, 6, 768), np.uint8),
            "image_grid_thw": np.array([[[1, 2, 3]]], np.int32),
        },
    ],
)
def test_tensors_that_do_not_fit_fail_alone_in_their_batch(server, change):
    """Straight to the encoder, past `preprocess`."""
    transport = GrpcTransport(server.grpc_url.split("//")[1])

    def call(rows):
        try:
            return transport.infer(contract.QWEN3_VL, rows, {}, DEADLINE_S)["embedding"][0]
        except InvalidInputError as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, [features(), features(**change)] * 8))
    assert all(isinstance(result, InvalidInputError) for result in results[1::2])
    for result in results[2::2]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)
    transport.close()


@pytest.mark.parametrize("dimensions", [0, 63, 257, -5])
def test_dimensions_outside_the_profile_are_refused(client, dimensions):
    with pytest.raises(InvalidInputError, match=f"dimensions: {dimensions}; .* 64 to 256"):
        client.embed("x", dimensions=dimensions)


def test_misspelt_parameter_is_refused(server):
    transport = GrpcTransport(server.grpc_url.split("//")[1])
    with pytest.raises(InvalidInputError, match="dimension: no such request parameter; the param"):
        rows = {"text": np.array([[b"x"]], np.object_)}
        transport.infer(contract.EMBED, rows, {"dimension": 64}, DEADLINE_S)
    transport.close()


def test_unknown_model_is_not_found(server):
    transport = GrpcTransport(server.grpc_url.split("//")[1])
    with pytest.raises((NotFoundError, NotReadyError)):
        transport.infer(contract.Model("no_such", contract.ITEM, ()), {}, {}, DEADLINE_S)
    transport.close()


def test_request_without_inputs_is_refused(server):
    transport = GrpcTransport(server.grpc_url.split("//")[1])
    with pytest.raises(InvalidInputError):
        transport.infer(contract.EMBED, {}, {}, DEADLINE_S)
    transport.close()


def test_timeout_is_an_error_of_its_own(client: Client):
    # The client takes an answer that has arrived, even after the timeout. So the call must take far
    # longer than this process may be paused.
    slow = encode(textured(1300, 1300, 1), "JPEG")
    for _ in range(3):
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0.001 s"):
            client.embed(image=[slow] * 3, timeout_s=0.001)
        assert len(client.embed("x")) == 256, "the next call is not harmed"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_threads_leave_nothing_open_behind(server, protocol):
    """There are as many connections as simultaneous calls, and none after the client was closed."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    url = {"grpc": server.grpc_url, "http": server.http_url}[protocol]
    Client(url).close()  # opens what the library opens only once
    before = descriptors()
    with Client(url) as client:
        for _ in range(6):
            client.embed_many([Item("x")] * 16, concurrency=8, batch_size=1)
        assert descriptors() <= before + 8 + 4, "8 connections, and an event loop's descriptors"
    gc.collect()
    assert descriptors() <= before + 1


@pytest.mark.parametrize("swapped", [True, False])
def test_wrong_port_is_not_ready(server, swapped):
    """The HTTP client on the gRPC port, and the other way round."""
    grpc, http = server.grpc_url.split("//")[1], server.http_url.split("//")[1]
    with Client(f"http://{grpc}" if swapped else f"grpc://{http}", timeout_s=3) as client:
        with pytest.raises((NotReadyError, DeadlineExceededError)):
            client.embed("x")
