"""`lensemble up`: starts a server, and with `--gateway` the gateway, and keeps them running."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_cli.options import Commands, report_missing_package
from lensemble_cli.up_gateway import add_gateway_options, check_gateway, make_gateway

if TYPE_CHECKING:
    from lensemble.gateway.process import GatewayServer
    from lensemble.operations.health_routes import HealthServer
    from lensemble.operations.supervisor import Supervisor

logger = logging.getLogger(__name__)

# Seconds between two looks at the gateway and at the supervisor.
_POLL_S = 0.2
# Number of times that a gateway that ends by itself is started again before the command gives up.
_MAX_GATEWAY_RESTARTS = 10


def add_command(commands: Commands) -> None:
    """Adds `lensemble up`."""
    up = commands.add_parser(
        "up",
        help="start a server on this machine and keep it running",
        description="Settings of the models and of the gateway that are not given come from the "
        "LENSEMBLE_* variables (docs/settings.md).",
    )
    up.add_argument("--checkpoint", type=Path, help="serving checkpoint")
    up.add_argument("--index", type=Path, help="index to search")
    up.add_argument(
        "--writes", action="store_const", const="on", help="let callers write to the index"
    )
    up.add_argument(
        "--address",
        default="127.0.0.1",
        help="address to listen on; the tritonserver of nvidia-pytriton accepts loopback only "
        "(default: 127.0.0.1)",
    )
    up.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free one")
    up.add_argument("--http-port", type=int, default=8000, help="0 takes a free one")
    up.add_argument("--metrics-port", type=int, default=8002, help="0 takes a free one")
    up.add_argument("--health-port", type=int, default=8003, help="0 takes a free one")
    up.add_argument("--tls", type=Path, help="folder with tls.crt and tls.key: gRPC over TLS")
    up.add_argument(
        "--mutual-tls",
        action="store_true",
        help="callers must present a certificate signed by the ca.crt in that folder",
    )
    up.add_argument("--dtype", help="auto, fp32 or bf16")
    up.add_argument(
        "--clip", help="folder or hub id of a CLIP model: also serve the embedder `clip`"
    )
    up.add_argument(
        "--sentence",
        help="folder or hub id of a sentence-transformers model: also serve the embedder `hybrid`",
    )
    up.add_argument(
        "--chat-url", help="OpenAI-compatible server that describes pictures for `hybrid`"
    )
    up.add_argument(
        "--chat-model",
        help="model on the chat server; LENSEMBLE_CHAT_KEY has the key for that server",
    )
    up.add_argument(
        "--drain",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long to continue to serve after a signal to stop, while /ready answers 503 "
        "(default: 0)",
    )
    up.add_argument(
        "--log",
        choices=("file", "json"),
        default="file",
        help="json: one object per line, Triton's log on standard output and this command's "
        "messages on standard error; file: Triton's log file, whose path is printed",
    )
    up.add_argument(
        "--tritonserver", type=Path, help="program to start (default: from PATH or nvidia-pytriton)"
    )
    add_gateway_options(up)
    up.set_defaults(run=_up)


def _up(args: argparse.Namespace) -> int:
    try:
        from lensemble.operations.doctor import faults_before_start
        from lensemble.operations.health_routes import HealthServer
        from lensemble.operations.logs import LogRelay, log_as_json
        from lensemble.operations.signals import stop_on_signals
        from lensemble.operations.supervisor import Supervisor
        from lensemble.operations.tritonserver import TritonServer
        from lensemble.settings import Settings
    except ImportError as error:
        return report_missing_package("local-server", error)
    settings = Settings.from_env(
        checkpoint=args.checkpoint,
        index=args.index,
        dtype=args.dtype,
        writes=args.writes,
        clip=args.clip,
        sentence=args.sentence,
        chat_url=args.chat_url,
        chat_model=args.chat_model,
    )
    try:
        check_gateway(args)
    except ImportError as error:
        return report_missing_package("gateway", error)
    if faults := faults_before_start(settings):
        for fault in faults:
            remedy = f"; {fault.remedy}" if fault.remedy else ""
            print(f"error: {fault.subject}: {fault.text}{remedy}", file=sys.stderr)
        return 1
    with stop_on_signals():
        server = TritonServer(
            settings,
            grpc_port=args.grpc_port,
            http_port=args.http_port,
            metrics_port=args.metrics_port,
            address=args.address,
            tritonserver=args.tritonserver,
            tls=args.tls,
            mutual=args.mutual_tls,
        )
        supervisor = Supervisor(server)
        if args.log == "json":
            log_as_json()
        else:
            print("starting ...", file=sys.stderr)
        relay = nullcontext() if args.log == "file" else LogRelay(lambda: server.log_file)
        with (
            relay,
            HealthServer(supervisor.state, args.health_port, args.address) as health,
            supervisor,
            # The URLs are known now, because the supervisor has started the server.
            make_gateway(args, server.grpc_url, server.metrics_url) as gateway,
        ):
            _announce(
                args.log, [server.grpc_url, server.http_url, server.metrics_url], health, gateway
            )
            if args.log == "file":
                print(
                    f"log: {server.log_file}\nCtrl-C stops the server.", file=sys.stderr, flush=True
                )
            try:
                return _watch(supervisor, gateway)
            except KeyboardInterrupt:
                logger.info("stopping")
                if args.log == "file":
                    print("stopping ...", file=sys.stderr)
                supervisor.retire()
                time.sleep(args.drain)
                return 0


def _announce(
    log_format: str, urls: Sequence[str], health: HealthServer, gateway: GatewayServer | None
) -> None:
    """Announces the URLs of the server: as lines on standard output, or as one log message."""
    lines = [*urls, f"health: {health.url}"]
    if gateway is not None:
        lines.append(f"gateway: {gateway.url}")
    if log_format == "json":
        logger.info("serving on %s", ", ".join(lines))
    else:
        print(*lines, sep="\n", flush=True)


def _watch(supervisor: Supervisor, gateway: GatewayServer | None) -> int:
    """Restarts the gateway whenever it ends.

    Returns:
        The exit status 1, if the gateway has ended too often or the server is no longer watched.

    Raises:
        InternalError: The supervisor has given up.
        LensembleError: The gateway could not be started again.
    """
    restarts = 0
    while not supervisor.wait(_POLL_S):
        if gateway is not None and (exit_status := gateway.poll()) is not None:
            logger.error("the gateway ended with status %d", exit_status)
            restarts += 1
            if restarts > _MAX_GATEWAY_RESTARTS:
                return 1
            gateway.stop()
            gateway.start()
    return 1
