"""Limits on connections: half-sent heads, idle connections, bodies that go on after the answer."""

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn

from lensemble.gateway.access.connections import limited_connections
from lensemble.gateway.settings import GatewaySettings
from tests.waiting import DEADLINE_S

HEAD = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
# A caller who is refused before the body is read, and continues to send it.
REFUSED = b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\nx"
FOREVER_S = 1e6


async def answer(scope, receive, send):
    headers = [(b"content-length", b"8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"answered"})


@asynccontextmanager
async def serving(**settings):
    """Address of a server with the gateway's limits on connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    limits = GatewaySettings(**{"head_s": FOREVER_S, **settings})
    config = uvicorn.Config(
        answer, http=limited_connections(limits), lifespan="off", log_config=None, loop="asyncio"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)


@asynccontextmanager
async def connected(address):
    """Reader and writer of one connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await asyncio.wait_for(writer.wait_closed(), DEADLINE_S)


async def request(reader, writer):
    """Sends a request, and reads its answer."""
    writer.write(HEAD)
    await read_answer(reader)


async def read_answer(reader):
    await asyncio.wait_for(reader.readuntil(b"answered"), DEADLINE_S)


async def read_to_end(reader):
    """What arrives until the server closes the connection."""
    return await asyncio.wait_for(reader.read(), DEADLINE_S)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (b"", b"408"),
        (b"GET / HTTP/1.1\r\nHost:", b"408"),
        (HEAD + b"GET / HT", b"408"),
        (REFUSED, b""),
    ],
    ids=["nothing", "half a head", "half a second head", "a body that does not end"],
)
def test_connection_without_a_complete_head_is_closed(sent, received):
    async def run():
        async with serving(head_s=0.05) as address, connected(address) as (reader, writer):
            writer.write(sent)
            if b"\r\n\r\n" in sent:
                await read_answer(reader)
            assert received in await read_to_end(reader)

    asyncio.run(run())


def test_connection_serves_several_requests_within_the_limit():
    async def run():
        async with serving() as address, connected(address) as (reader, writer):
            for _ in range(3):
                for byte in HEAD:
                    writer.write(bytes([byte]))
                    await writer.drain()
                await read_answer(reader)
            writer.write(HEAD + HEAD)  # sent ahead
            for _ in range(2):
                await read_answer(reader)

    asyncio.run(run())


def test_oldest_idle_connection_is_closed_if_there_are_too_many():
    async def run():
        async with (
            serving(connections=2) as address,
            connected(address) as first,
            connected(address) as second,
        ):
            await request(*first)
            await request(*second)
            await request(*first)  # now the second has been idle for longer
            async with connected(address) as third:
                assert await read_to_end(second[0]) == b""
                await request(*first)
                await request(*third)

    asyncio.run(run())
