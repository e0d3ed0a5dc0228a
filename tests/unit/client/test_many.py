"""Calls of both clients: which items share a request, what is tried again, order of results."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from lensemble_client import (
    AsyncClient,
    Client,
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
from tests.waiting import DEADLINE_S, FakeClock

AT_ONCE = Retry(tries=3, first_wait_s=0.0)


class Requests:
    """Records requests. An item's vector is the length of its text; the text `bad` fails.

    Attributes:
        requests: Model, texts and timeout of each request.
        failures: Errors of the next requests, in order.
        most: Largest number of requests that ran at the same time.
    """

    def __init__(self):
        self.requests, self.failures, self.most = [], [], 0
        self.running = 0
        self._lock = threading.Lock()

    def enter(self, model, rows, timeout_s):
        texts = [row[0].decode() for row in rows.get("text", [])]
        with self._lock:
            self.requests.append((model.name, texts, timeout_s))
            self.running += 1
            self.most = max(self.most, self.running)
            if self.failures:
                raise self.failures.pop(0)
        if "bad" in texts:
            raise InvalidInputError("bad text (row 1 of 9)", field="text")
        return texts

    def leave(self):
        with self._lock:
            self.running -= 1

    def finished(self):
        """Number of requests that were answered or failed."""
        with self._lock:
            return len(self.requests) - self.running

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


class SyncTransport(Requests):
    barrier = None

    def wait_for_each_other(self, count):
        """Answers requests only while so many of them run."""
        self.barrier = threading.Barrier(count)

    def infer(self, model, rows, parameters, timeout_s):
        try:
            texts = self.enter(model, rows, timeout_s)
            if self.barrier is not None:
                self.barrier.wait(DEADLINE_S)
            return self.answer(model, rows, texts)
        finally:
            self.leave()


class AsyncTransport(Requests):
    barrier = None

    def wait_for_each_other(self, count):
        """Answers requests only while so many of them run."""
        self.barrier = asyncio.Barrier(count)

    async def infer(self, model, rows, parameters, timeout_s):
        try:
            texts = self.enter(model, rows, timeout_s)
            if self.barrier is not None:
                async with asyncio.timeout(DEADLINE_S):
                    await self.barrier.wait()
            return self.answer(model, rows, texts)
        finally:
            self.leave()


class Caller:
    """Either client; each call is run to its end."""

    def __init__(self, kind, **options):
        self.transport = (SyncTransport if kind == "sync" else AsyncTransport)()
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


def test_texts_share_requests_and_results_keep_their_order(caller):
    items = [Item("x" * n) for n in range(1, 71)]
    results = caller.embed_many(items)
    assert [vector[0] for vector in results] == list(range(1, 71))
    assert sizes(caller) == [6, 32, 32]
    hits = caller.search_many(iter(items), batch_size=7)
    assert [[hit.id for hit in row] for row in hits] == [[str(n)] for n in range(1, 71)]


def test_items_with_pictures_have_requests_of_their_own(caller):
    items = [Item("a"), Item("bb", (b"picture",)), Item("ccc"), Item(images=(b"picture",))]
    results = caller.embed_many(items)
    assert [vector[0] for vector in results] == [1, 2, 3, 0]
    assert sorted(texts for _, texts, _ in caller.transport.requests) == [[], ["a", "ccc"], ["bb"]]


def test_every_item_is_in_one_batch_and_batches_are_limited():
    long = "x" * (TEXT_BYTES_PER_REQUEST // 2)
    items = [Item(long), Item("a"), Item(long), Item(long + long + long), Item("b")]
    made = list(batches(items))
    assert sorted(number for batch in made for number, _ in batch) == [0, 1, 2, 3, 4]
    assert [[number for number, _ in batch] for batch in made] == [[0, 1], [2], [3], [4]]


def test_one_bad_item_does_not_affect_the_others(caller):
    items = [Item("a"), Item("bad"), Item("ccc"), Item("")]
    results = caller.embed_many(items)
    assert [type(result) for result in results[:3]] == [np.ndarray, InvalidInputError, np.ndarray]
    assert isinstance(results[3], InvalidInputError), "an empty item is not sent"
    assert results[0][0] == 1
    assert results[2][0] == 3


def test_answer_with_too_few_results_is_an_internal_error(caller):
    answer = caller.transport.answer
    caller.transport.answer = lambda model, rows, texts: {
        name: array[:1] for name, array in answer(model, rows, texts).items()
    }
    results = caller.embed_many([Item("a"), Item("bb")])
    assert [vector[0] for vector in results] == [1, 2], "sent one by one, each has a result"
    caller.transport.answer = lambda model, rows, texts: {"embedding": np.empty((0, 4))}
    (error,) = caller.embed_many([Item("a")])
    assert error.message == "the server gave 0 results for 1 items"


def test_items_are_not_sent_one_by_one_to_a_server_that_is_gone(caller):
    caller.transport.failures = [NotReadyError("gone")] * 3
    results = caller.embed_many([Item("a")] * 20)
    assert [type(result) for result in results] == [NotReadyError] * 20
    assert sizes(caller) == [20] * 3


def test_items_are_read_while_there_is_room(kind):
    caller = Caller(kind)
    read = []

    def items():
        for n in range(210):
            read.append(n)
            # Twice as many requests as may run are held, and one is being filled.
            assert n < 10 * (caller.transport.finished() + 2 * 3 + 1)
            yield Item("x")

    caller.transport.wait_for_each_other(3)
    results = caller.embed_many(items(), batch_size=10, concurrency=3)
    assert (len(results), len(read), caller.transport.most) == (210, 210, 3)


def test_error_of_the_callers_own_iterator_is_raised(caller):
    def items():
        yield Item("a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        caller.embed_many(items())
    assert caller.embed_many([]) == []


@pytest.mark.parametrize("error", [OverloadedError("busy"), NotReadyError("starting")])
def test_reads_are_tried_again(caller, error):
    caller.transport.failures = [error, error]
    assert caller.embed("abc")[0] == 3
    caller.transport.failures = [error] * 3
    with pytest.raises(type(error)):
        caller.search("abc")
    assert [name for name, _, _ in caller.transport.requests] == ["embed"] * 3 + ["search"] * 3


@pytest.mark.parametrize(
    ("error", "tries"),
    [(OverloadedError("busy"), 3), (NotReadyError("gone"), 1), (InvalidInputError("bad"), 1)],
)
def test_writes_are_tried_again_only_after_overload(caller, error, tries):
    caller.transport.failures = [error] * 3
    with pytest.raises(type(error)):
        caller.ingest("a", "x")
    caller.transport.failures = [error] * 3
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
def test_calls_with_many_items_are_tried_again_until_the_timeout(kind, send):
    """Refusals because of overload are not counted; losing the server is."""
    caller = Caller(kind, retry=AT_ONCE)
    caller.transport.failures = [OverloadedError("busy")] * 50
    (result,) = send(caller)
    assert not isinstance(result, LensembleError)
    assert len(caller.transport.requests) == 51
    caller.transport.failures = [OverloadedError("busy")] * 5 + [NotReadyError("gone")] * 3
    (result,) = send(caller)
    assert isinstance(result, NotReadyError)
    impatient = Caller(kind, retry=Retry(tries=1))
    impatient.transport.failures = [OverloadedError("busy")]
    (result,) = send(impatient)
    assert isinstance(result, OverloadedError)


def test_tries_end_with_the_timeout(kind, monkeypatch):
    """Only the waits between tries advance the clock."""
    clock = FakeClock()

    async def advance_async(seconds):
        clock.advance(seconds)

    monkeypatch.setattr("lensemble_client.retry.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("lensemble_client.retry.random.uniform", lambda least, most: most)
    monkeypatch.setattr("lensemble_client._sync.base.sleep", clock.advance)
    monkeypatch.setattr("lensemble_client._async.base.sleep", advance_async)
    caller = Caller(kind, retry=Retry(tries=100, first_wait_s=0.1, max_wait_s=0.4))
    caller.transport.failures = [OverloadedError("busy")] * 100
    with pytest.raises(OverloadedError):
        caller.embed("x", timeout_s=1.0)
    timeouts = [timeout_s for _, _, timeout_s in caller.transport.requests]
    assert timeouts == pytest.approx([1.0, 0.9, 0.7, 0.3])


def test_waits_grow_and_differ():
    waits = [list(Retry(tries=6, first_wait_s=0.1, max_wait_s=0.5).waits()) for _ in range(200)]
    highest = np.max(waits, axis=0)
    assert (highest <= [0.1, 0.2, 0.4, 0.5, 0.5]).all()
    assert (highest > [0.05, 0.1, 0.2, 0.3, 0.3]).all()
    assert list(Retry(tries=1).waits()) == []


def test_cancelled_task_cancels_the_requests_that_run():
    async def run():
        transport = AsyncTransport()
        transport.wait_for_each_other(17)  # one more than may run, so none is answered
        task = asyncio.create_task(
            AsyncClient(transport=transport).embed_many([Item("x")] * 99, batch_size=1)
        )
        async with asyncio.timeout(DEADLINE_S):
            while transport.barrier.n_waiting < 16:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (transport.running, len(transport.requests)) == (0, 16)

    asyncio.run(run())


def test_embedder_keeps_order_and_names_the_position_of_a_bad_item():
    transport = SyncTransport()
    client = Client(transport=transport, retry=AT_ONCE)
    with Qwen3VLEmbedder(client=client, dimensions=4) as embedder:
        assert embedder.generate_embedding(text_context="four").tolist() == [4] * 4
        pictures = [b"p", None, b"q"]
        results = embedder.generate_batch_embeddings(pictures, ["a", "bb", None])
        assert results[:, 0].tolist() == [1, 2, 0]
        assert embedder.generate_batch_embeddings([]).shape == (0, 4)
        with pytest.raises(InvalidInputError, match=r"^\[1\]\.text: bad text"):
            embedder.generate_batch_embeddings([None] * 3, ["a", "bad", "c"])
        with pytest.raises(InvalidInputError, match=r"^\[0\]\.image\[0\]: cannot read 'gone.jpg'"):
            embedder.generate_batch_embeddings(["gone.jpg"])
        with pytest.raises(InvalidInputError, match="1 pictures, 2 contexts"):
            embedder.generate_batch_embeddings([b"p"], ["a", "b"])


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9", "http://127.0.0.1:9"])
def test_server_that_does_not_exist_is_not_ready(url, kind):
    """For both protocols of both clients."""

    async def ask():
        async with AsyncClient(url, timeout_s=DEADLINE_S, retry=AT_ONCE) as client:
            assert not await client.health()
            await client.embed("x")

    with pytest.raises(NotReadyError):
        if kind == "asyncio":
            asyncio.run(ask())
        else:
            with Client(url, timeout_s=DEADLINE_S, retry=AT_ONCE) as client:
                assert not client.health()
                client.embed("x")
