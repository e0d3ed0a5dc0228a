"""Starts the server under test: Triton, the gateway if the scenario needs it, and a new index.

The index is filled through the server itself, as a caller would do it, so that this process needs
no model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.monitoring.processes import shared_memory_prefix
from benchmarks.load.monitoring.sampler import SampleSources
from benchmarks.load.scenario import Scenario
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from lensemble_contract.errors import InternalError, LensembleError
from lensemble_contract.items import Record


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """The server that receives the load.

    Attributes:
        url: URL for the users.
        sources: What can be sampled of it.
        version: Version of the server, such as `triton 2.51.0`.
    """

    url: str
    sources: SampleSources
    version: str


@contextmanager
def running_server(
    scenario: Scenario, checkpoint: Path, index_items: list[Item]
) -> Iterator[LoadTarget]:
    """Starts the server that a scenario needs, and stops it when the block is left.

    Args:
        scenario: Scenario, which says whether there is a gateway and an index.
        checkpoint: Checkpoint to serve.
        index_items: Items to store beforehand.

    Raises:
        LensembleError: The server did not start, or an item could not be stored.
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
            _store_items(client, index_items)
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
        sources = SampleSources(triton.http_url, pids, prefix, triton.metrics_url)
        yield LoadTarget(url, sources, version)


def _store_items(client: Client, items: list[Item]) -> None:
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
