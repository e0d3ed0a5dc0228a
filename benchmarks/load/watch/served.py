"""What is tested: the real Triton, and the gateway in front of it, with an index made on the spot.

The index is filled through the server itself, as a caller would: so the process that watches needs
no model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.scenario import Scenario
from benchmarks.load.watch.processes import shared_memory_prefix
from benchmarks.load.watch.watch import Watched
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from lensemble_contract.errors import InternalError, LensembleError
from lensemble_contract.items import Record


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes.

    Attributes:
        url: For the users.
        watched: What can be seen of it.
        version: Of the server, such as `triton 2.51.0`.
    """

    url: str
    watched: Watched
    version: str


@contextmanager
def running(scenario: Scenario, checkpoint: Path, index_items: list[Item]) -> Iterator[Target]:
    """Starts what the scenario wants, and stops it in the end.

    Args:
        scenario: Says whether there is a gateway, and an index.
        checkpoint: What is served.
        index_items: Stored beforehand.

    Raises:
        LensembleError: It did not start, or an item could not be stored.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lensemble-load-")))
        index = {"index": folder / "index", "writes": "on"} if scenario.writes else {}
        print("load: starting Triton", file=sys.stderr)
        triton = stack.enter_context(
            TritonServer(Settings(checkpoint=checkpoint, **index))  # type: ignore[arg-type]
        )
        assert triton.pid is not None
        with Client(triton.grpc_url) as client:
            version = client.status().server
            _fill(client, index_items)
        pids: dict[str, int | None] = {"tritonserver": triton.pid}
        url = triton.grpc_url if scenario.protocol == "grpc" else triton.http_url
        if scenario.protocol == "gateway":
            from lensemble.gateway.process import GatewayServer
            from lensemble.gateway.settings import GatewaySettings

            settings = GatewaySettings(
                triton=triton.grpc_url,
                metrics=triton.metrics_url,
                port=0,
                in_flight=max(GatewaySettings().in_flight, *map(int, scenario.users), 1),
                access_log=False,
            )
            gateway = stack.enter_context(GatewayServer(settings))
            pids["gateway"], url = gateway.pid, gateway.url
        prefix = shared_memory_prefix(triton.pid)
        watched = Watched(triton.http_url, pids, prefix, triton.metrics_url)
        yield Target(url, watched, version)


def _fill(client: Client, items: list[Item]) -> None:
    if not items:
        return
    print(f"load: storing {len(items)} items", file=sys.stderr)
    records = [Record(f"load/before/{n}", item) for n, item in enumerate(items)]
    failed = [
        result
        for result in client.ingest_many(records, resume=False)
        if isinstance(result, LensembleError)
    ]
    if failed:
        raise InternalError(f"{len(failed)} of {len(items)} items not stored: {failed[0]}")
