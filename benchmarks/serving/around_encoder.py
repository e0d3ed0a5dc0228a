"""Everything around the encoder: texts per second with an encoder that costs nothing.

    python -m benchmarks.serving.around_encoder [--quick] [--save]

A GPU encodes thousands of short texts per second, so the CPU work for each of them may become the
limit. Here a real Triton serves the demo checkpoint, but its encoder checks and unpads the features
of each text and returns the same vector for all. The processes of the callers share the cores with
the server. By turns in every round:

- `embed_many`: one process hands texts to `embed_many`, which sends up to 32 of them in a request.
- `embed`: one process with 32 callers, each with one text in a request.

The table says which processes use the CPU: those of the callers, Triton's own, and those of the
models `preprocess` and `qwen3_vl`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.results import print_and_save
from benchmarks.common.timing import format_ratios, medians, ratio
from benchmarks.common.workloads import WORKLOADS
from lensemble.operations.model_repository import write_repository
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Client
from lensemble_contract import contract

CALLERS = 32
DISTINCT = 600
# Rounds, and texts of one measurement in a round with each way to send them.
FULL = (5, {"embed_many": 24_000, "embed": 3000})
QUICK = (3, {"embed_many": 6000, "embed": 1000})

Figures = dict[str, float]

_FREE_ENCODER = """

class FreeEncoder(EncodeStage):
    def run(self, rows):
        import numpy as np
        vectors = np.zeros((len(rows), self._encoder.profile.dimension), np.float32)
        vectors[:, 0] = 1
        return list(vectors)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(FreeEncoder, args)
"""


@contextmanager
def server_with_free_encoder() -> Iterator[TritonServer]:
    """Starts a server whose encoder computes nothing."""
    settings = Settings(checkpoint=WORKLOADS["demo"].checkpoint())
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(settings, Path(folder) / "models")
        model = repository / contract.QWEN3_VL.name / "1" / "model.py"
        model.write_text(model.read_text() + _FREE_ENCODER)
        with TritonServer(settings, repository=repository) as server:
            yield server


def cpu_seconds(server: TritonServer) -> dict[str, float]:
    """Returns the CPU seconds so far of Triton's process and of the processes of each model."""
    triton = psutil.Process(server.pid)
    seconds = {"triton": _cpu_s(triton)}
    for process in triton.children(recursive=True):
        command = " ".join(process.cmdline())
        for model in (contract.PREPROCESS.name, contract.QWEN3_VL.name):
            if f"/{model}/" in command:
                seconds[model] = seconds.get(model, 0.0) + _cpu_s(process)
    return seconds


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def send(url: str, way: str, count: int) -> Figures:
    """Sends texts in a process of its own; see `send_here`."""
    command = [sys.executable, "-m", "benchmarks.serving.around_encoder", "--send", url, way]
    completed = subprocess.run(
        [*command, str(count)], stdout=subprocess.PIPE, text=True, check=True
    )
    figures: Figures = json.loads(completed.stdout)
    return figures


def send_here(url: str, way: str, count: int) -> Figures:
    """Sends texts from this process.

    Args:
        url: URL of the server's gRPC port.
        way: `embed_many` or `embed`.
        count: Number of texts.

    Returns:
        `texts_per_s`, and `callers_us`: microseconds of this process's CPU time for each text.
    """
    items = [item for item in WORKLOADS["demo"].items("text", DISTINCT)]
    texts = [items[n % DISTINCT] for n in range(count)]

    async def single_texts() -> None:
        numbers = iter(range(count))

        async def caller(client: AsyncClient) -> None:
            for number in numbers:  # one iterator for all callers
                await client.embed(texts[number].text)

        async with AsyncClient(url) as client:
            await asyncio.gather(*(caller(client) for _ in range(CALLERS)))

    def many_texts() -> None:
        with Client(url) as client:
            client.embed_many(texts)

    run: Callable[[], None] = many_texts
    if way == "embed":
        run = lambda: asyncio.run(single_texts())  # noqa: E731
    cpu, began = time.process_time(), time.perf_counter()
    run()
    return {
        "texts_per_s": count / (time.perf_counter() - began),
        "callers_us": (time.process_time() - cpu) / count * 1e6,
    }


def measure(rounds: int, counts: dict[str, int]) -> dict[str, Any]:
    """Measures both ways by turns.

    Args:
        rounds: Number of rounds.
        counts: For each way, number of texts of one measurement.

    Returns:
        For each way the medians of its figures, and the ratio of the rates with its spread.
    """
    by_way: dict[str, list[Figures]] = {way: [] for way in counts}
    with server_with_free_encoder() as server:
        for number in range(rounds + 1):
            for way, count in counts.items():
                before = cpu_seconds(server)
                figures = send(server.grpc_url, way, count)
                after = cpu_seconds(server)
                for name, seconds in after.items():
                    figures[f"{name}_us"] = (seconds - before[name]) / count * 1e6
                if number:  # the first round warms up
                    by_way[way].append(figures)
    rates = {way: [each["texts_per_s"] for each in taken] for way, taken in by_way.items()}
    return {
        **{way: medians(taken) for way, taken in by_way.items()},
        **ratio("embed_many_over_embed", rates["embed_many"], rates["embed"]),
    }


def table(results: dict[str, Any]) -> str:
    """Returns the figures as a table: rate, and microseconds of CPU for each text by process."""
    columns = ("callers", "triton", contract.PREPROCESS.name, contract.QWEN3_VL.name)
    lines = [f"{'':12}{'texts/s':>9}" + "".join(f"{f'{name} us':>16}" for name in columns)]
    for way, figures in results.items():
        if isinstance(figures, dict):
            costs = "".join(f"{figures[f'{name}_us']:16.0f}" for name in columns)
            lines.append(f"{way:12}{figures['texts_per_s']:9.0f}{costs}")
    return "\n".join([*lines, *format_ratios(results)])


def main() -> None:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--save", action="store_true", help="write the result file")
    parser.add_argument("--send", nargs=3, metavar=("URL", "WAY", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        url, way, count = options.send
        print(json.dumps(send_here(url, way, int(count))))
        return
    rounds, counts = QUICK if options.quick else FULL
    with stop_on_signals():
        results = measure(rounds, counts)
    print(table(results))
    params = {"rounds": rounds, "texts": counts, "callers": CALLERS}
    print_and_save("around_encoder", params, results, options.save)


if __name__ == "__main__":
    main()
