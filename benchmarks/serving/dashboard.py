"""The dashboard during normal load, a flood of requests, and a killed encoder.

    python -m benchmarks.serving.dashboard [--save]

It runs a supervised server with the demo checkpoint and an index, its gateway, and Debian's
Prometheus with the files of deploy/. One caller each embeds, searches and writes all the time. Then
a hundred callers send pictures at once; then the encoder is killed. It draws the main graphs.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.common.workloads import WORKLOADS
from benchmarks.serving.prometheus_server import (
    Prometheus,
    dashboard,
    installed,
    with_short_windows,
)
from lensemble.gateway.access import keys
from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.health_routes import HealthServer
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.settings import Settings
from lensemble_client import Client, Item, Retry
from lensemble_contract.errors import LensembleError

PICTURE = Path("docs/watch.png")
PANELS = (
    "Requests",
    "Latency at the gateway",
    "Errors and refusals",
    "Requests that wait",
    "A pass of the encoder",
    "Index",
)
CALM_S, FLOOD_S, AFTER_S = 25.0, 20.0, 35.0
# Number of callers that send pictures at once.
FLOOD = 100


class BackgroundLoad:
    """A context manager that calls functions repeatedly, each in a thread of its own.

    Args:
        functions: Functions to call; calls that fail are repeated.
    """

    def __init__(self, functions: Sequence[Callable[[], object]]) -> None:
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(function,)) for function in functions
        ]

    def __enter__(self) -> BackgroundLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, function: Callable[[], object]) -> None:
        while not self._ended.is_set():
            try:
                function()
            except (LensembleError, httpx.HTTPError):
                self._ended.wait(0.1)


def run_drill(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Runs the normal load, the flood and the kill.

    Args:
        folder: Folder for the index, keys, and Prometheus.

    Returns:
        Panel -> series of Prometheus with `legend` and `values`; and event -> when it began, in
        seconds.
    """
    pictures = WORKLOADS["demo"].items("mixed", 256)
    settings = Settings(
        checkpoint=WORKLOADS["demo"].checkpoint(),
        index=folder / "index",
        writes="on",
        compact_rows=500,
        max_wait_s=0.5,
    )
    with ExitStack() as stack:
        supervisor = stack.enter_context(Supervisor(TritonServer(settings)))
        health = stack.enter_context(HealthServer(supervisor.state))
        server = supervisor.server
        path = folder / "keys.json"
        key = keys.add(path, "caller", "read")
        (folder / "metrics.key").write_text(keys.add(path, "prometheus", "metrics"))
        gateway = stack.enter_context(
            GatewayServer(
                GatewaySettings(
                    triton=server.grpc_url, metrics=server.metrics_url, keys=path, port=0
                )
            )
        )
        targets = {
            "triton": urlsplit(server.metrics_url).netloc,
            "supervisor": urlsplit(health.url).netloc,
            "gateway": urlsplit(gateway.url).netloc,
        }
        client = stack.enter_context(Client(server.grpc_url, timeout_s=10, retry=Retry(tries=1)))
        http = stack.enter_context(
            httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=10)
        )
        number = itertools.count()

        def write() -> None:
            n = next(number)
            item = pictures[n % len(pictures)]
            client.ingest(f"{n}", item.text, list(item.images) or None, document={"n": n})

        def ask() -> None:
            http.post(
                f"{gateway.url}/v1/embeddings", json={"input": f"a car {next(number)}"}
            ).raise_for_status()

        calm = BackgroundLoad([write, lambda: client.search(f"car {next(number)}"), ask])
        prometheus = stack.enter_context(
            Prometheus(folder / "prometheus", targets, folder / "metrics.key")
        )
        start = time.time()
        began = {}
        with calm:
            time.sleep(CALM_S)
            began["flood"] = time.time() - start
            _flood(client, pictures)
            began["kill"] = time.time() - start
            _kill(server)
            time.sleep(AFTER_S)
        end = time.time()
        panels = {
            panel: [
                {**series, "legend": _legend(legend, series["metric"])}
                for expression, legend in dashboard()[panel]
                for series in prometheus.history(with_short_windows(expression), start, end)
            ]
            for panel in PANELS
        }
    for series in itertools.chain.from_iterable(panels.values()):
        series["values"] = [(at - start, float(value)) for at, value in series["values"]]
    return panels, began


def _flood(client: Client, pictures: Sequence[Item]) -> None:
    until = time.monotonic() + FLOOD_S

    def send(number: int) -> None:
        while time.monotonic() < until:
            item = pictures[number % len(pictures)]
            try:
                client.embed(item.text, list(item.images) or None)
            except LensembleError:
                time.sleep(0.2)
            number += FLOOD

    with ThreadPoolExecutor(FLOOD) as pool:
        list(pool.map(send, range(FLOOD)))


def _kill(server: TritonServer) -> None:
    beats = read_heartbeats(server.heartbeats)
    psutil.Process(next(beat.pid for beat in beats if beat.model == "qwen3_vl")).send_signal(
        signal.SIGKILL
    )


def _legend(text: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def draw(panels: dict[str, list[dict[str, Any]]], began: dict[str, float], path: Path) -> None:
    """Draws the panels, with the events as vertical lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(15, 7), constrained_layout=True)
    for (panel, series), plot in zip(panels.items(), axes.flat, strict=True):
        for one in series:
            plot.plot(*zip(*one["values"], strict=True), label=one["legend"], linewidth=1.2)
        for event, at in began.items():
            plot.axvline(at, color="grey", linestyle=":", linewidth=1)
            plot.annotate(event, (at, 1), xycoords=("data", "axes fraction"), fontsize=8)
        plot.set_title(panel, fontsize=10)
        plot.set_xlabel("s", fontsize=8)
        plot.set_ylim(bottom=0)
        plot.legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> int:
    """Runs and draws; returns 1 if Debian's `prometheus` is not installed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.dashboard", description=__doc__
    )
    parser.add_argument("--save", action="store_true", help=f"draw {PICTURE}")
    options = parser.parse_args()
    if not installed():
        print("error: no `prometheus` on PATH; apt install prometheus", file=sys.stderr)
        return 1
    with stop_on_signals(), TemporaryDirectory() as folder:
        panels, began = run_drill(Path(folder))
        draw(panels, began, PICTURE if options.save else Path(".cache/watch.png"))
    for panel, series in panels.items():
        for one in series:
            values = [value for _, value in one["values"]]
            print(f"{panel:24} {one['legend']:24} most {max(values, default=0):10.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
