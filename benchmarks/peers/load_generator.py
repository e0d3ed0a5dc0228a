"""The callers of one server: a closed loop in a process of its own.

Each server is called the way its users would call it: over persistent connections, one item per
request. The callers run on the same cores as the server, and the measured times include the writing
of requests and the parsing of answers.
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

from benchmarks.common.workloads import INSTRUCTION
from benchmarks.peers.peer import Protocol
from benchmarks.peers.vllm_cpu import MODEL
from lensemble_client import AsyncClient, Item

# Smallest number of measured answers per caller, however long they take.
MIN_ANSWERS_PER_CALLER = 3

Vector = NDArray[np.float32]
# Function that requests the vector of one item, (D,) float32.
Embed = Callable[[Item], Awaitable[Vector]]


@dataclass(frozen=True, slots=True)
class Turn:
    """Figures of one server in one turn.

    Attributes:
        items_per_s: Answers per second, over all callers.
        p50_ms: Median latency of one item, in milliseconds.
        p99_ms: 99th percentile of the latency, in milliseconds.
        client_ms: CPU time of the callers' process per item, in milliseconds.
        asked: Number of items that were sent.
    """

    items_per_s: float
    p50_ms: float
    p99_ms: float
    client_ms: float
    asked: int


def json_request(item: Item) -> dict[str, str | None]:
    """Returns an item as `http_api.HttpRequest`."""
    image = base64.b64encode(item.images[0]).decode() if item.images else None
    return {"text": item.text, "image": image}


def chat_request(item: Item) -> dict[str, Any]:
    """Returns an item as a request to OpenAI's embeddings API, with messages as vLLM wants them."""
    content: list[dict[str, Any]] = []
    for image in item.images:
        kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    if item.text is not None:
        content.append({"type": "text", "text": item.text})
    return {
        "model": MODEL,
        "encoding_format": "base64",  # as OpenAI's own client does
        "add_special_tokens": True,
        "continue_final_message": True,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        ],
    }


@asynccontextmanager
async def connected(protocol: Protocol, url: str) -> AsyncIterator[Embed]:
    """Opens connections to a server.

    Args:
        protocol: Protocol of the server.
        url: URL of the server.

    Yields:
        Function that requests the vector of one item.
    """
    if protocol == "grpc":
        async with AsyncClient(url) as client:
            yield lambda item: client.embed(item.text, item.images or None)
        return
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:

        async def post(path: str, body: object) -> Any:
            async with session.post(path, json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{url}: status {answer.status}: {await answer.text()}")
                return await answer.json()

        async def embed_json(item: Item) -> Vector:
            return np.array((await post("/embed", json_request(item)))["embedding"], np.float32)

        async def embed_openai(item: Item) -> Vector:
            answer = await post("/v1/embeddings", chat_request(item))
            return np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")

        yield embed_json if protocol == "json" else embed_openai


async def run_callers(embed: Embed, items: Sequence[Item], callers: int, seconds: float) -> Turn:
    """Runs callers that send the next item as soon as the last one was answered.

    The first answers, one per caller, are not measured: until then the server is not fully loaded.

    Args:
        embed: Function that requests the vector of one item.
        items: Items to send, in order; after the last one, sending goes on with the first.
        callers: Number of concurrent callers.
        seconds: Smallest number of measured seconds.
    """
    numbers, latencies = itertools.count(), list[float]()
    answered, over = 0, False
    # When the measured time began, when the last measured answer came, and the CPU time in between.
    began = ended = cpu_at_start = cpu_used = 0.0

    async def caller() -> None:
        nonlocal answered, began, ended, cpu_at_start, cpu_used, over
        while not over:
            sent = time.perf_counter()
            await embed(items[next(numbers) % len(items)])
            now = time.perf_counter()
            answered += 1
            if answered <= callers:
                began, cpu_at_start = now, time.process_time()
            elif not over:
                latencies.append(now - sent)
                ended, cpu_used = now, time.process_time() - cpu_at_start
                over = now - began >= seconds and len(latencies) >= MIN_ANSWERS_PER_CALLER * callers

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Turn(
        round(len(latencies) / (ended - began), 1),
        round(float(np.percentile(latencies, 50)) * 1000, 2),
        round(float(np.percentile(latencies, 99)) * 1000, 2),
        round(cpu_used / len(latencies) * 1000, 3),
        next(numbers),  # the numbers are counted from 0, so this is how many items were sent
    )


def run_turn(
    protocol: Protocol, url: str, items: Sequence[Item], callers: int, seconds: float
) -> Turn:
    """Connects to a server and runs `run_callers`; to be called in a process of its own."""

    async def run() -> Turn:
        async with connected(protocol, url) as embed:
            return await run_callers(embed, items, callers, seconds)

    return asyncio.run(run())


def fetch_vectors(protocol: Protocol, url: str, items: Sequence[Item]) -> Vector:
    """Returns the vectors of items, (N, D) float32; all are requested at once."""

    async def run() -> Vector:
        async with connected(protocol, url) as embed:
            return np.stack(await asyncio.gather(*(embed(item) for item in items)))

    return asyncio.run(run())
