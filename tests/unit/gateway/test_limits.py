"""Limits of requests in flight, of their bodies, and of requests per minute."""

import asyncio

from starlette.datastructures import Headers

from lensemble.gateway.access import body_limits, keys
from lensemble.gateway.access.body_limits import BodyLimits
from lensemble.gateway.observability.metrics import Metrics
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.settings import GatewaySettings
from tests.gateway import FakeTriton, gateway
from tests.waiting import FakeClock

JSON = "application/json"


def test_request_beyond_the_limit_is_refused_before_its_body_is_read():
    async def send():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        pieces_read = 0

        async def body():
            nonlocal pieces_read
            pieces_read += 1
            yield b'{"input": "a"}'

        async with gateway(triton, in_flight=2) as http:
            in_flight = [
                asyncio.create_task(http.post("/v1/embeddings", json={"input": "a"}))
                for _ in range(2)
            ]
            await triton.wait_for_calls(2)
            refused = await http.post("/v1/embeddings", content=body())
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            assert pieces_read == 0
            assert (await http.get("/health")).status_code == 200, "health has no limit"
            triton.hold.set()
            responses = await asyncio.gather(*in_flight)
            assert [response.status_code for response in responses] == [200, 200]
            assert (await http.post("/v1/embeddings", json={"input": "a"})).status_code == 200

    asyncio.run(send())


def test_each_key_has_its_own_rate_limit(tmp_path):
    path = tmp_path / "keys.json"
    one, other = (keys.add(path, name, "read") for name in ("one", "other"))

    async def send():
        async with gateway(keys=path, per_minute=3) as http:
            for key in (one, other):
                http.headers["Authorization"] = f"Bearer {key}"
                responses = [await http.get("/v1/models") for _ in range(4)]
                assert [response.status_code for response in responses] == [200, 200, 200, 429]
                assert 1 <= int(responses[-1].headers["retry-after"]) <= 60

    asyncio.run(send())


def never_complete():
    """A body whose end never comes."""

    async def body():
        yield b"{"
        await asyncio.Event().wait()

    return body()


def test_slow_bodies_of_one_key_leave_room_for_other_keys(tmp_path):
    path = tmp_path / "keys.json"
    slow, other = (
        {"Authorization": f"Bearer {keys.add(path, name, 'read')}", "Content-Type": JSON}
        for name in ("slow", "other")
    )

    async def send():
        async with gateway(keys=path, in_flight=8, key_share=0.75) as http:

            def post_slowly():
                return http.post("/v1/embeddings", content=never_complete(), headers=slow)

            waiting = [asyncio.create_task(post_slowly()) for _ in range(7)]
            done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert len(pending) == 6
            (refused,) = [task.result() for task in done]
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert "which is the limit of one key" in refused.json()["error"]["message"]
            answered = await http.post("/v1/embeddings", json={"input": "a"}, headers=other)
            assert answered.status_code == 200
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
            again = await http.post("/v1/embeddings", json={"input": "a"}, headers=slow)
            assert again.status_code == 200, "requests that have ended do not count"

    asyncio.run(send())


def test_bodies_of_one_key_leave_room_for_other_keys(tmp_path):
    path = tmp_path / "keys.json"
    greedy, other = (
        {"Authorization": f"Bearer {keys.add(path, name, 'read')}"} for name in ("greedy", "other")
    )

    async def send():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        large = {"input": "a" * 600}
        async with gateway(triton, keys=path, held_bytes=1600, key_share=0.5) as http:
            first = asyncio.create_task(http.post("/v1/embeddings", json=large, headers=greedy))
            await triton.wait_for_calls(1)
            refused = await http.post("/v1/embeddings", json=large, headers=greedy)
            assert refused.status_code == 429
            assert "with the key 'greedy'" in refused.json()["error"]["message"]
            second = asyncio.create_task(http.post("/v1/embeddings", json=large, headers=other))
            await triton.wait_for_calls(2)
            triton.hold.set()
            assert [(await each).status_code for each in (first, second)] == [200, 200]

    asyncio.run(send())


def test_full_gateway_in_which_nothing_ends_is_stuck_after_ten_seconds():
    clock = FakeClock()
    limits = BodyLimits(GatewaySettings(in_flight=2), Metrics(), clock)
    with limits.admit(Headers(), RequestStats("1")):
        clock.advance(60)
        assert not limits.is_stuck, "there is room for another request"
        with limits.admit(Headers(), RequestStats("2")):
            clock.advance(10)
            assert not limits.is_stuck
            clock.advance(0.1)
            assert limits.is_stuck
        assert not limits.is_stuck
        with limits.admit(Headers(), RequestStats("3")):
            assert not limits.is_stuck, "requests end, if slowly"


def test_health_says_that_a_stuck_gateway_answers_nobody(monkeypatch):
    async def send():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        async with gateway(triton, in_flight=1) as http:
            waiting = asyncio.create_task(http.post("/v1/embeddings", json={"input": "a"}))
            await triton.wait_for_calls(1)
            assert (await http.get("/health")).status_code == 200
            monkeypatch.setattr(body_limits, "STUCK_S", -1)
            assert (await http.get("/health")).status_code == 503
            triton.hold.set()
            assert (await waiting).status_code == 200
            assert (await http.get("/health")).status_code == 200

    asyncio.run(send())


def test_body_that_is_too_large_is_refused_with_or_without_its_length():
    async def without_length():
        for _ in range(20):
            yield b"x" * 100

    async def send():
        async with gateway(body_bytes=1000) as http:
            http.headers["Content-Type"] = "application/json"
            for body in (b"x" * 1001, without_length()):
                response = await http.post("/v1/embeddings", content=body)
                assert response.status_code == 413
                assert response.json()["error"]["code"] == "body_too_large"

    asyncio.run(send())


def test_bodies_of_requests_in_flight_have_a_limit_together():
    async def send():
        triton = FakeTriton()
        triton.hold = asyncio.Event()
        async with gateway(triton, held_bytes=150) as http:
            first = asyncio.create_task(http.post("/v1/embeddings", json={"input": "a" * 80}))
            await triton.wait_for_calls(1)
            refused = await http.post("/v1/embeddings", json={"input": "b" * 80})
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            triton.hold.set()
            assert (await first).status_code == 200
            again = await http.post("/v1/embeddings", json={"input": "b" * 80})
            assert again.status_code == 200, "the bytes of finished requests do not count"

    asyncio.run(send())


def test_body_that_does_not_arrive_is_refused_after_a_while():
    async def send():
        async with gateway(body_s=0.05) as http:
            headers = {"content-type": JSON}
            return await http.post("/v1/embeddings", content=never_complete(), headers=headers)

    assert asyncio.run(send()).status_code == 408
