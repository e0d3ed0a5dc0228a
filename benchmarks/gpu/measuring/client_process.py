"""Callers of the server in a process of their own.

    python -m benchmarks.gpu.measuring.client_process grpc://127.0.0.1:8001 FOLDER NUMBER OF

Each line of its standard input asks for one measurement: `set`, `callers`, and the monotonic times
`begin` and `end`, which all processes of a machine share. It answers with one line: the latencies
of the calls that ended between the two, and how many failed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.gpu.measuring.item_sets import read_set
from lensemble_client import AsyncClient, Item, LensembleError

# Seconds before a measurement in which callers already call.
WARM_UP_S = 1.0


class ClientProcesses:
    """Processes that call the server at the same time; a context manager.

    Args:
        url: The server's gRPC URL.
        folder: Folder of the item sets.
        count: Number of processes.
    """

    def __init__(self, url: str, folder: Path, count: int = 2) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu.measuring.client_process", url]
        self._processes = [
            subprocess.Popen(
                [*command, str(folder), str(number), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def measure(self, name: str, callers: int, begin: float, seconds: float) -> dict[str, Any]:
        """Runs a closed loop: each caller sends the next item once the last was answered.

        Args:
            name: Name of the set of items.
            callers: Number of callers, over all processes.
            begin: Monotonic time from which on calls count.
            seconds: Seconds for which they count.

        Returns:
            `items_per_s`, `p50_ms`, `p99_ms`.

        Raises:
            RuntimeError: A call failed, no call ended, or a process ended.
        """
        shares = split_evenly(callers, len(self._processes))
        asked = [
            (process, share)
            for process, share in zip(self._processes, shares, strict=True)
            if share
        ]
        for process, share in asked:
            assert process.stdin is not None
            order = {"set": name, "callers": share, "begin": begin, "end": begin + seconds}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        answers = []
        for process, _ in asked:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"a client process ended with status {process.wait()}")
            answers.append(json.loads(line))
        return figures(answers, seconds)


def split_evenly(count: int, parts: int) -> list[int]:
    """Returns how many of `count` each of the parts gets; the first ones get the rest."""
    return [count // parts + (n < count % parts) for n in range(parts)]


def figures(answers: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Returns throughput and latency over the answers of all processes.

    Args:
        answers: `latencies_ms`, `failed` and `error` of each process.
        seconds: Seconds for which calls counted.

    Raises:
        RuntimeError: A call failed, or no call ended.
    """
    failed = sum(answer["failed"] for answer in answers)
    latencies = [ms for answer in answers for ms in answer["latencies_ms"]]
    if failed or not latencies:
        error = next((answer["error"] for answer in answers if answer["error"]), "none ended")
        raise RuntimeError(f"{failed} calls failed, {len(latencies)} succeeded: {error}")
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "items_per_s": round(len(latencies) / seconds, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
    }


async def call_until(
    client: AsyncClient, items: Sequence[Item], first: int, stride: int, order: dict[str, Any]
) -> dict[str, Any]:
    """Runs one measurement of this process, and returns its answer."""
    numbers = itertools.count(first, stride)
    latencies: list[float] = []
    failed, error = 0, ""

    async def caller() -> None:
        nonlocal failed, error
        while (began := time.monotonic()) < order["end"]:
            item = items[next(numbers) % len(items)]
            try:
                await client.embed(item.text, item.images or None)
            except LensembleError as raised:
                failed, error = failed + 1, str(raised)[:200]
                return
            ended = time.monotonic()
            if order["begin"] <= ended < order["end"]:
                latencies.append(round((ended - began) * 1e3, 2))

    await asyncio.gather(*(caller() for _ in range(order["callers"])))
    return {"latencies_ms": latencies, "failed": failed, "error": error}


async def answer_orders(url: str, folder: Path, number: int, of: int) -> None:
    """Answers the lines of standard input until it ends."""
    sets: dict[str, list[Item]] = {}
    async with AsyncClient(url) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            items = sets.setdefault(order["set"], read_set(folder / order["set"]))
            answer = await call_until(client, items, number, of, order)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(answer_orders(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
