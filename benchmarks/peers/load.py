"""Callers of one server, in a process of their own: closed loop, the same items for all.

Every server is asked as its users would: over connections that are kept, one item in a request.
What encoding and decoding costs the caller is in the times, and it shares the machine's cores.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Protocol
from benchmarks.peers.vllm_cpu import MODEL
from lensemble_client import AsyncClient, Item

INSTRUCTION = "Represent the user's input."
LEAST_PER_CALLER = 3
"""Answers per caller that are measured at least, however long they take."""

Vector = NDArray[np.float32]
Ask = Callable[[Item], Awaitable[Vector]]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a server did in one turn.

    Attributes:
        items_per_s: Answers per second, all callers together.
        p50_ms: Median of a caller's wait for one item, in milliseconds.
        p99_ms: The wait that 1 in 100 exceeds, in milliseconds.
        client_ms: CPU time of the callers' process per item, in milliseconds.
        asked: Items that were sent, from the first to the last.
    """

    items_per_s: float
    p50_ms: float
    p99_ms: float
    client_ms: float
    asked: int


def body(item: Item) -> dict[str, str | None]:
    """The item as `wire.Request`."""
    image = base64.b64encode(item.images[0]).decode() if item.images else None
    return {"text": item.text, "image": image}


def chat(item: Item) -> dict[str, Any]:
    """The item as a request of OpenAI's embeddings API with messages, as vLLM documents it."""
    content: list[dict[str, Any]] = []
    for image in item.images:
        kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    if item.text is not None:
        content.append({"type": "text", "text": item.text})
    return {
        "model": MODEL,
        "encoding_format": "base64",  # what OpenAI's own client asks for
        "add_special_tokens": True,
        "continue_final_message": True,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        ],
    }


@asynccontextmanager
async def connected(protocol: Protocol, url: str) -> AsyncIterator[Ask]:
    """Connections to a server.

    Args:
        protocol: How it is asked.
        url: Where it is.

    Returns:
        What asks it for one item's vector (D,).
    """
    if protocol == "grpc":
        async with AsyncClient(url) as client:
            yield lambda item: client.embed(item.text, item.images)
        return
    connector, wait = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(url, connector=connector, timeout=wait) as session:

        async def post(path: str, sent: object) -> Any:
            async with session.post(path, json=sent) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{url}: status {answer.status}: {await answer.text()}")
                return await answer.json()

        async def json(item: Item) -> Vector:
            return np.array((await post("/embed", body(item)))["embedding"], np.float32)

        async def openai(item: Item) -> Vector:
            answer = await post("/v1/embeddings", chat(item))
            return np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")

        yield json if protocol == "json" else openai


async def load(ask: Ask, items: Sequence[Item], callers: int, seconds: float) -> Turn:
    """Callers that send the next item as soon as they are answered.

    The first answers, one per caller, are not measured: until then the server is not full.

    Args:
        ask: Of the server.
        items: Sent in order; from the first again where there are too few.
        callers: How many at a time.
        seconds: How long to measure at least.
    """
    numbers, taken = itertools.count(), list[float]()
    answered, began, ended, cpu, used, over = 0, 0.0, 0.0, 0.0, 0.0, False

    async def caller() -> None:
        nonlocal answered, began, ended, cpu, used, over
        while not over:
            sent = time.perf_counter()
            await ask(items[next(numbers) % len(items)])
            now = time.perf_counter()
            answered += 1
            if answered <= callers:
                began, cpu = now, time.process_time()
            elif not over:
                taken.append(now - sent)
                ended, used = now, time.process_time() - cpu
                over = now - began >= seconds and len(taken) >= LEAST_PER_CALLER * callers

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Turn(
        round(len(taken) / (ended - began), 1),
        round(float(np.percentile(taken, 50)) * 1000, 2),
        round(float(np.percentile(taken, 99)) * 1000, 2),
        round(used / len(taken) * 1000, 3),
        next(numbers),
    )


def turn(protocol: Protocol, url: str, items: Sequence[Item], callers: int, seconds: float) -> Turn:
    """`load`, for another process to call."""

    async def run() -> Turn:
        async with connected(protocol, url) as ask:
            return await load(ask, items, callers, seconds)

    return asyncio.run(run())


def vectors(protocol: Protocol, url: str, items: Sequence[Item]) -> Vector:
    """Vectors (N, D) of items, all asked for at once."""

    async def run() -> Vector:
        async with connected(protocol, url) as ask:
            return np.stack(await asyncio.gather(*(ask(item) for item in items)))

    return asyncio.run(run())
