"""Does shared memory pay? Pictures by shared memory and over gRPC, against the bundled server.

    python -m benchmarks.serving.shared_memory [--save]

Two kinds of requests: `embed` of a picture (a flat BMP, which costs the server the least that many
bytes can), and bytes that are no picture, which the server refuses unread: the way there and back
alone, and so the most that can be gained. Wire and shared memory take turns in every round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.common.measure import finish, in_turn, ratio
from lensemble.operations.tritonserver import TritonServer, stop_on_signals
from lensemble.settings import Settings
from lensemble_client import Client, InvalidInputError
from lensemble_export.convert import convert
from lensemble_export.random_checkpoint import write_random_checkpoint

SIZES = {"100 KB": 100_000, "1 MB": 1_000_000, "5 MB": 5_000_000}
MAX_PIXELS = 16_384
"""To which the server resizes: 16 tokens, so that encoding does not hide the way."""


def picture(size: int) -> bytes:
    """A picture of about this many bytes."""
    side = int((size / 3) ** 0.5)
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "green").save(buffer, "BMP")
    return buffer.getvalue()


def refused(size: int) -> bytes:
    """As many bytes that are no picture."""
    return b"none" * (size // 4)


KINDS: dict[str, Callable[[int], bytes]] = {"refused": refused, "picture": picture}


def ask(client: Client, data: bytes) -> None:
    """One request."""
    with contextlib.suppress(InvalidInputError):
        client.embed(image=data)


def measured(
    clients: dict[str, Client], data: bytes, requests: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Median time of one request alone, and rate of several at a time, with their ratios."""
    latencies: dict[str, list[float]] = {name: [] for name in clients}

    def alone(name: str) -> Callable[[], None]:
        def run() -> None:
            seconds = []
            for _ in range(requests):
                began = time.perf_counter()
                ask(clients[name], data)
                seconds.append(time.perf_counter() - began)
            latencies[name].append(statistics.median(seconds))

        return run

    in_turn({name: alone(name) for name in clients}, rounds)
    with ThreadPoolExecutor(threads) as pool:

        def together(name: str) -> Callable[[], list[None]]:
            return lambda: list(pool.map(lambda _: ask(clients[name], data), range(4 * requests)))

        busy = in_turn({name: together(name) for name in clients}, rounds)
    p50 = {name: seconds[1:] for name, seconds in latencies.items()}  # without the warm-up
    return {
        "wire_p50_ms": round(1e3 * statistics.median(p50["wire"]), 2),
        "shared_p50_ms": round(1e3 * statistics.median(p50["shared"]), 2),
        **ratio("p50_ratio", p50["wire"], p50["shared"]),
        "wire_per_s": round(4 * requests / statistics.median(busy["wire"]), 1),
        "shared_per_s": round(4 * requests / statistics.median(busy["shared"]), 1),
        **ratio("throughput_ratio", busy["wire"], busy["shared"]),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8, help="of a round, one at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    options = parser.parse_args()
    results = {}
    with stop_on_signals(), TemporaryDirectory() as folder:
        source, checkpoint = Path(folder) / "source", Path(folder) / "checkpoint"
        write_random_checkpoint(source)
        convert(str(source), checkpoint, min_pixels=4096, max_pixels=MAX_PIXELS)
        with (
            TritonServer(
                Settings(checkpoint=checkpoint, dtype="fp32"), shared_memory=True
            ) as server,
            Client(server.grpc_url) as wire,
            Client(server.grpc_url, shared_memory=True) as shared,
        ):
            clients = {"wire": wire, "shared": shared}
            for kind in options.kinds:
                for name, size in SIZES.items():
                    found = measured(
                        clients,
                        KINDS[kind](size),
                        options.requests,
                        options.rounds,
                        options.threads,
                    )
                    results[f"{kind} {name}"] = found
                    print(kind, name, found, file=sys.stderr)
    params = {name: value for name, value in vars(options).items() if name != "save"}
    finish("shared_memory", params, results, options.save)


if __name__ == "__main__":
    main()
