"""The gateway that `lensemble up` starts: its options and its process."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    from lensemble.gateway.process import GatewayServer


def add_gateway_options(up: argparse.ArgumentParser) -> None:
    """Adds the options of the gateway. Its other settings are LENSEMBLE_GATEWAY_* variables."""
    up.add_argument("--gateway", action="store_true", help="start the gateway (HTTP API), too")
    up.add_argument(
        "--gateway-host", help="address it listens on; one beyond loopback requires --keys"
    )
    up.add_argument("--gateway-port", type=int, help="0 takes a free one (default: 8080)")
    up.add_argument("--keys", type=Path, help="file of API keys (`lensemble keys`)")


def make_gateway(
    args: argparse.Namespace, grpc_url: str, metrics_url: str
) -> AbstractContextManager[GatewayServer | None]:
    """Makes the gateway if `--gateway` was given; entering the context starts it.

    Args:
        args: Values of the options of `lensemble up`.
        grpc_url: Triton's gRPC address.
        metrics_url: URL of Triton's metrics.

    Raises:
        InvalidInputError: A setting cannot be used, or an option of the gateway was given without
            `--gateway`.
    """
    if not args.gateway:
        for option in ("gateway_host", "gateway_port", "keys"):
            if getattr(args, option) is not None:
                raise InvalidInputError("it requires --gateway", field=option)
        return nullcontext()
    from lensemble.gateway.app import require_keys_beyond_loopback
    from lensemble.gateway.process import GatewayServer
    from lensemble.gateway.settings import GatewaySettings

    settings = GatewaySettings.from_env(
        triton=grpc_url,
        metrics=metrics_url,
        host=args.gateway_host,
        port=args.gateway_port,
        keys=args.keys,
        tls=args.tls,
        mutual=args.mutual_tls or None,
        triton_tls=args.tls,
    )
    require_keys_beyond_loopback(settings)
    return GatewayServer(settings)
