"""Callers of the server over one path, in a process of their own to measure their CPU time.

python -m benchmarks.serving.gateway_callers gateway http://127.0.0.1:8080 16 3
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import numpy as np

from lensemble_client import AsyncClient, Item

_WORDS = ("dent", "scratch", "bumper", "parachoques", "puerta", "red", "left", "front", "luna")
_WARM_UP_S = 0.5
# Items in one call of `embed_many`, and in one request to the gateway.
MANY = 256

Ask = Callable[[], Awaitable[int]]


def text(n: int) -> str:
    """Returns a short text; the first 729 are different."""
    return " ".join(_WORDS[n // len(_WORDS) ** place % len(_WORDS)] for place in range(3))


async def paths(url: str, stack: AsyncExitStack) -> dict[str, Ask]:
    """Returns name of a path -> function that makes one call and returns the number of vectors."""
    numbers = itertools.count()
    if url.startswith("grpc"):
        client = await stack.enter_async_context(AsyncClient(url))

        async def single() -> int:
            return int((await client.embed(text(next(numbers)))).ndim)

        async def many() -> int:
            return len(await client.embed_many([Item(text(n)) for n in range(MANY)]))

        return {"grpc": single, "embed_many": many}
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )

    async def post(texts: object) -> int:
        body = {"input": texts, "encoding_format": "base64"}
        async with session.post(f"{url}/v1/embeddings", json=body) as answer:
            entries = (await answer.json())["data"]
        for entry in entries:
            np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
        return len(entries)

    async def single_text() -> int:
        return await post(text(next(numbers)))

    async def list_of_many() -> int:
        return await post([text(n) for n in range(MANY)])

    return {"gateway": single_text, "gateway_many": list_of_many}


async def run_callers(way: str, url: str, callers: int, seconds: float) -> dict[str, Any]:
    """Runs a closed loop over one path.

    Args:
        way: Name of the path, a key of `paths`.
        url: URL of the server or the gateway.
        callers: Number of callers.
        seconds: Measured seconds.

    Returns:
        Items per second, latency of calls in milliseconds, and this process's CPU milliseconds per
        item.
    """
    async with AsyncExitStack() as stack:
        ask = (await paths(url, stack))[way]
        latencies: list[float] = []
        items = 0

        async def caller(end: float, *, count: bool) -> None:
            nonlocal items
            while time.perf_counter() < end:
                began = time.perf_counter()
                count_of_vectors = await ask()
                if count:
                    latencies.append(time.perf_counter() - began)
                    items += count_of_vectors

        async def run_all(seconds: float, *, count: bool) -> None:
            end = time.perf_counter() + seconds
            await asyncio.gather(*(caller(end, count=count) for _ in range(callers)))

        await run_all(_WARM_UP_S, count=False)
        began, cpu = time.perf_counter(), time.process_time()
        await run_all(seconds, count=True)
        elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    return {
        "items_per_s": round(items / elapsed, 1),
        "p50_ms": round(float(np.percentile(latencies, 50)) * 1000, 2),
        "p99_ms": round(float(np.percentile(latencies, 99)) * 1000, 2),
        "client_cpu_ms_per_item": round(used / items * 1000, 3),
    }


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("grpc", "embed_many", "gateway", "gateway_many"))
    parser.add_argument("url")
    parser.add_argument("callers", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(
        json.dumps(
            asyncio.run(run_callers(options.way, options.url, options.callers, options.seconds))
        )
    )


if __name__ == "__main__":
    main()
