"""Calls of both clients: what shares a request, what is tried again, what order comes back."""

import asyncio
import threading
import time

import numpy as np
import pytest

from lensemble_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidInputError,
    Item,
    LensembleError,
    NotReadyError,
    OverloadedError,
    Qwen3VLEmbedder,
    Record,
    Retry,
)
from lensemble_client.batches import TEXT_BYTES_PER_REQUEST, batches

AT_ONCE = Retry(tries=3, first_s=0.0)


class Fake:
    """The vector of an item is the length of its text; the text `bad` fails its request.

    Attributes:
        requests: Model and texts of each.
        fail: Errors of the next requests, in order.
        most: Requests that were under way at a time.
    """

    def __init__(self):
        self.requests, self.fail, self.most = [], [], 0
        self.pause_s = 0.0
        self._lock, self._now = threading.Lock(), 0

    def enter(self, model, rows, timeout_s):
        texts = [row[0].decode() for row in rows.get("text", [])]
        with self._lock:
            self.requests.append((model.name, texts, timeout_s))
            self._now += 1
            self.most = max(self.most, self._now)
            if self.fail:
                raise self.fail.pop(0)
        if "bad" in texts:
            raise InvalidInputError("bad text (row 1 of 9)", field="text")
        return texts

    def leave(self):
        with self._lock:
            self._now -= 1

    def answer(self, model, rows, texts):
        count = len(next(iter(rows.values())))
        lengths = [len(text) for text in texts] or [0] * count
        if model.name == "embed":
            return {"embedding": np.array([[length] * 4 for length in lengths], np.float32)}
        if model.name in ("ingest", "store"):
            return {"sequence": np.full((count, 1), 7)}
        return {
            "ids": np.array([[f"{length}".encode(), b""] for length in lengths], np.object_),
            "scores": np.array([[0.5, -1.0]] * count, np.float32),
            "documents": np.array([[b"{}", b"{}"]] * count, np.object_),
        }


class FakeTransport(Fake):
    def infer(self, model, rows, parameters, timeout_s):
        try:
            texts = self.enter(model, rows, timeout_s)
            time.sleep(self.pause_s)
            return self.answer(model, rows, texts)
        finally:
            self.leave()


class AsyncFakeTransport(Fake):
    async def infer(self, model, rows, parameters, timeout_s):
        try:
            texts = self.enter(model, rows, timeout_s)
            await asyncio.sleep(self.pause_s)
            return self.answer(model, rows, texts)
        finally:
            self.leave()


class Caller:
    """Either client, each call run to its end."""

    def __init__(self, kind, **options):
        self.transport = (FakeTransport if kind == "sync" else AsyncFakeTransport)()
        make = Client if kind == "sync" else AsyncClient
        self._client = make(transport=self.transport, **options)

    def __getattr__(self, name):
        def call(*args, **options):
            result = getattr(self._client, name)(*args, **options)
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        return call


@pytest.fixture(params=["sync", "asyncio"])
def kind(request):
    return request.param


@pytest.fixture
def caller(kind):
    return Caller(kind, retry=AT_ONCE)


def sizes(caller):
    return sorted(len(texts) for _, texts, _ in caller.transport.requests)


def test_texts_share_requests_and_order_is_kept(caller):
    items = [Item("x" * n) for n in range(1, 71)]
    found = caller.embed_many(items)
    assert [vector[0] for vector in found] == list(range(1, 71))
    assert sizes(caller) == [6, 32, 32]
    hits = caller.search_many(iter(items), batch_size=7)
    assert [[hit.id for hit in row] for row in hits] == [[str(n)] for n in range(1, 71)]


def test_pictures_go_alone_in_their_places(caller):
    items = [Item("a"), Item("bb", (b"picture",)), Item("ccc"), Item(images=(b"picture",))]
    found = caller.embed_many(items)
    assert [vector[0] for vector in found] == [1, 2, 3, 0]
    assert sorted(texts for _, texts, _ in caller.transport.requests) == [[], ["a", "ccc"], ["bb"]]


def test_every_item_is_in_one_batch_and_none_is_too_large():
    long = "x" * (TEXT_BYTES_PER_REQUEST // 2)
    items = [Item(long), Item("a"), Item(long), Item(long + long + long), Item("b")]
    made = list(batches(items))
    assert sorted(number for batch in made for number, _ in batch) == [0, 1, 2, 3, 4]
    assert [[number for number, _ in batch] for batch in made] == [[0, 1], [2], [3], [4]]


def test_one_bad_item_is_found_and_harms_no_other(caller):
    items = [Item("a"), Item("bad"), Item("ccc"), Item("")]
    found = caller.embed_many(items)
    assert [type(result) for result in found[:3]] == [np.ndarray, InvalidInputError, np.ndarray]
    assert isinstance(found[3], InvalidInputError), "nothing to embed: it is not sent"
    assert found[0][0] == 1
    assert found[2][0] == 3


def test_an_answer_for_fewer_items_is_a_fault_of_the_server(caller):
    answer = caller.transport.answer
    caller.transport.answer = lambda model, rows, texts: {
        name: array[:1] for name, array in answer(model, rows, texts).items()
    }
    found = caller.embed_many([Item("a"), Item("bb")])
    assert [vector[0] for vector in found] == [1, 2], "one by one there is one for each"
    caller.transport.answer = lambda model, rows, texts: {"embedding": np.empty((0, 4))}
    (error,) = caller.embed_many([Item("a")])
    assert error.message == "the server gave 0 results for 1 items"


def test_a_server_that_is_gone_is_not_asked_for_every_item(caller):
    caller.transport.fail = [NotReadyError("gone")] * 3
    found = caller.embed_many([Item("a")] * 20)
    assert [type(result) for result in found] == [NotReadyError] * 20
    assert sizes(caller) == [20] * 3


def test_items_are_read_as_there_is_room(kind):
    caller = Caller(kind)
    caller.transport.pause_s = 0.01
    read = []

    def items():
        for n in range(200):
            read.append(n)
            done = len(caller.transport.requests) - caller.transport._now
            assert n <= 10 * (done + 8), "it ran ahead"
            yield Item("x")

    found = caller.embed_many(items(), batch_size=10, concurrency=3)
    assert (len(found), len(read)) == (200, 200)
    assert caller.transport.most <= 3


def test_an_error_of_the_callers_own_iterator_comes_through(caller):
    def items():
        yield Item("a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        caller.embed_many(items())
    assert caller.embed_many([]) == []


@pytest.mark.parametrize("error", [OverloadedError("busy"), NotReadyError("starting")])
def test_reads_are_tried_again(caller, error):
    caller.transport.fail = [error, error]
    assert caller.embed("abc")[0] == 3
    caller.transport.fail = [error] * 3
    with pytest.raises(type(error)):
        caller.search("abc")
    assert [name for name, _, _ in caller.transport.requests] == ["embed"] * 3 + ["search"] * 3


@pytest.mark.parametrize(
    ("error", "tries"),
    [(OverloadedError("busy"), 3), (NotReadyError("gone"), 1), (InvalidInputError("bad"), 1)],
)
def test_writes_are_tried_again_only_if_nothing_was_done(caller, error, tries):
    caller.transport.fail = [error] * 3
    with pytest.raises(type(error)):
        caller.ingest("a", "x")
    caller.transport.fail = [error] * 3
    with pytest.raises(type(error)):
        caller.upsert(["a"], np.ones((1, 4), np.float32), profile="p")
    assert len(caller.transport.requests) == 2 * tries


@pytest.mark.parametrize(
    "send",
    [
        lambda caller: caller.embed_many([Item("x")]),
        lambda caller: caller.search_many([Item("x")]),
        lambda caller: caller.ingest_many([Record("a", Item("x"))], resume=False),
    ],
    ids=["embed", "search", "ingest"],
)
def test_calls_that_send_many_bear_refusals_until_the_timeout(kind, send):
    """Most of the load may be their own; but a server that is gone has its tries."""
    caller = Caller(kind, retry=AT_ONCE)
    caller.transport.fail = [OverloadedError("busy")] * 50
    (result,) = send(caller)
    assert not isinstance(result, LensembleError)
    assert len(caller.transport.requests) == 51
    caller.transport.fail = [OverloadedError("busy")] * 5 + [NotReadyError("gone")] * 3
    (result,) = send(caller)
    assert isinstance(result, NotReadyError)
    impatient = Caller(kind, retry=Retry(tries=1))
    impatient.transport.fail = [OverloadedError("busy")]
    (result,) = send(impatient)
    assert isinstance(result, OverloadedError)


def test_tries_end_with_the_timeout(kind):
    caller = Caller(kind, retry=Retry(tries=100, first_s=0.05, most_s=0.05))
    caller.transport.fail = [OverloadedError("busy")] * 100
    began = time.monotonic()
    with pytest.raises(OverloadedError):
        caller.embed("x", timeout_s=0.3)
    assert time.monotonic() - began < 2
    left = [timeout_s for _, _, timeout_s in caller.transport.requests]
    assert left[0] == 0.3
    assert left == sorted(left, reverse=True)
    assert left[-1] > 0
    assert 2 < len(left) < 100


def test_waits_grow_and_differ():
    waits = [list(Retry(tries=6, first_s=0.1, most_s=0.5).waits()) for _ in range(200)]
    highest = np.max(waits, axis=0)
    assert (highest <= [0.1, 0.2, 0.4, 0.5, 0.5]).all()
    assert (highest > [0.05, 0.1, 0.2, 0.3, 0.3]).all()
    assert list(Retry(tries=1).waits()) == []


def test_cancelled_task_cancels_what_is_under_way():
    async def cancelled():
        transport = AsyncFakeTransport()
        transport.pause_s = 60
        task = asyncio.create_task(
            AsyncClient(transport=transport).embed_many([Item("x")] * 99, batch_size=1)
        )
        while transport._now < 16:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return transport

    transport = asyncio.run(cancelled())
    assert (transport._now, len(transport.requests)) == (0, 16)


def test_embedder_keeps_order_and_names_the_place_of_a_bad_item():
    transport = FakeTransport()
    client = Client(transport=transport, retry=AT_ONCE)
    with Qwen3VLEmbedder(client=client, dimensions=4) as embedder:
        assert embedder.generate_embedding(text_context="four").tolist() == [4] * 4
        pictures = [b"p", None, b"q"]
        found = embedder.generate_batch_embeddings(pictures, ["a", "bb", None])
        assert found[:, 0].tolist() == [1, 2, 0]
        assert embedder.generate_batch_embeddings([]).shape == (0, 4)
        with pytest.raises(InvalidInputError, match=r"^\[1\]\.text: bad text"):
            embedder.generate_batch_embeddings([None] * 3, ["a", "bad", "c"])
        with pytest.raises(InvalidInputError, match=r"^\[0\]\.image\[0\]: cannot read 'gone.jpg'"):
            embedder.generate_batch_embeddings(["gone.jpg"])
        with pytest.raises(InvalidInputError, match="1 pictures, 2 contexts"):
            embedder.generate_batch_embeddings([b"p"], ["a", "b"])


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9", "http://127.0.0.1:9"])
def test_nobody_there(url, kind):
    """Both wires of both clients: the same error, and no health."""

    async def ask():
        async with AsyncClient(url, timeout_s=2, retry=AT_ONCE) as client:
            assert not await client.health()
            await client.embed("x")

    with pytest.raises(LensembleError) as caught:
        if kind == "asyncio":
            asyncio.run(ask())
        else:
            with Client(url, timeout_s=2, retry=AT_ONCE) as client:
                assert not client.health()
                client.embed("x")
    assert isinstance(caught.value, NotReadyError | DeadlineExceededError)
