"""`lensemble up`: a server that is kept running, with the gateway if it is asked for."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_cli.gateway import add_options, gateway_beside
from lensemble_cli.options import missing

if TYPE_CHECKING:
    from lensemble.gateway.process import GatewayServer
    from lensemble.operations.health_routes import HealthServer
    from lensemble.operations.supervisor import Supervisor

logger = logging.getLogger(__name__)

_WATCH_S = 0.2
_GATEWAY_ENDS = 10
"""Times that the gateway may end by itself before that is taken for hopeless."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `lensemble up`."""
    up = commands.add_parser(
        "up",
        help="start a server on this machine and keep it running",
        description="Options left out are taken from the LENSEMBLE_* variables.",
    )
    up.add_argument("--checkpoint", type=Path, help="serving checkpoint")
    up.add_argument("--index", type=Path, help="index to search")
    up.add_argument(
        "--writes", action="store_const", const="on", help="let callers write to the index"
    )
    up.add_argument(
        "--address",
        default="127.0.0.1",
        help="where to listen; beyond loopback in NVIDIA's images only (default: 127.0.0.1)",
    )
    up.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free one")
    up.add_argument("--http-port", type=int, default=8000, help="0 takes a free one")
    up.add_argument("--metrics-port", type=int, default=8002, help="0 takes a free one")
    up.add_argument("--health-port", type=int, default=8003, help="0 takes a free one")
    up.add_argument("--tls", type=Path, help="folder with tls.crt and tls.key: gRPC over TLS")
    up.add_argument(
        "--mutual-tls", action="store_true", help="callers must show a certificate of its ca.crt"
    )
    up.add_argument("--dtype", help="auto, fp32 or bf16")
    up.add_argument("--clip", help="folder or hub id of a CLIP model: serve this embedder, too")
    up.add_argument(
        "--sentence",
        help="folder or hub id of a sentence-transformers model: serve the embedder `hybrid`, too",
    )
    up.add_argument("--chat-url", help="OpenAI-compatible server that describes pictures for it")
    up.add_argument("--chat-model", help="name of the model there; LENSEMBLE_CHAT_KEY has its key")
    up.add_argument(
        "--drain",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="to serve on when it is told to stop, with /ready at 503 (default: 0)",
    )
    up.add_argument(
        "--log",
        choices=("file", "json"),
        default="file",
        help="json: one object a line on standard output; file: Triton's own, and say where it is",
    )
    up.add_argument("--tritonserver", type=Path, help="program to start; looked for if left out")
    add_options(up)
    up.set_defaults(run=_up)


def _up(given: argparse.Namespace) -> int:
    try:
        from lensemble.operations.health_routes import HealthServer
        from lensemble.operations.logs import Relay, use_json
        from lensemble.operations.supervisor import Supervisor
        from lensemble.operations.tritonserver import TritonServer, stop_on_signals
        from lensemble.settings import Settings
    except ImportError as error:
        return missing("local-server", error)
    settings = Settings.from_env(
        checkpoint=given.checkpoint,
        index=given.index,
        dtype=given.dtype,
        writes=given.writes,
        clip=given.clip,
        sentence=given.sentence,
        chat_url=given.chat_url,
        chat_model=given.chat_model,
    )
    with stop_on_signals():
        server = TritonServer(
            settings,
            grpc_port=given.grpc_port,
            http_port=given.http_port,
            metrics_port=given.metrics_port,
            address=given.address,
            tritonserver=given.tritonserver,
            tls=given.tls,
            mutual=given.mutual_tls,
        )
        supervisor = Supervisor(server)
        if given.log == "json":
            use_json()
        else:
            print("starting ...", file=sys.stderr)
        relay = nullcontext() if given.log == "file" else Relay(lambda: server.log_file)
        with (
            relay,
            HealthServer(supervisor.state, given.health_port, given.address) as health,
            supervisor,
            gateway_beside(given, server.grpc_url, server.metrics_url) as gateway,
        ):
            _say(given.log, [server.grpc_url, server.http_url, server.metrics_url], health, gateway)
            if given.log == "file":
                print(f"log: {server.log_file}\nCtrl-C stops it.", file=sys.stderr, flush=True)
            try:
                return _watch(supervisor, gateway)
            except KeyboardInterrupt:
                logger.info("stopping")
                if given.log == "file":
                    print("stopping ...", file=sys.stderr)
                supervisor.retire()
                time.sleep(given.drain)
                return 0


def _say(
    log: str, urls: Sequence[str], health: HealthServer, gateway: GatewayServer | None
) -> None:
    """Where it listens: for people, or as one message."""
    lines = [*urls, f"health: {health.url}"]
    if gateway is not None:
        lines.append(f"gateway: {gateway.url}")
    if log == "json":
        logger.info("serving on %s", ", ".join(lines))
    else:
        print(*lines, sep="\n", flush=True)


def _watch(supervisor: Supervisor, gateway: GatewayServer | None) -> int:
    """Waits until one of them is given up, and says so; starts a gateway that ended again."""
    ends = 0
    while not supervisor.wait(_WATCH_S):
        if gateway is not None and (status := gateway.poll()) is not None:
            ends += 1
            logger.error("the gateway ended with status %d", status)
            if ends > _GATEWAY_ENDS:
                return 1
            gateway.stop()
            gateway.start()
    return 1
