"""The gateway that `lensemble up` starts: its options, what is checked of them, and its process."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    from lensemble.gateway.process import GatewayServer
    from lensemble.gateway.settings import GatewaySettings


def add_gateway_options(up: argparse.ArgumentParser) -> None:
    """Adds the options of the gateway. Its other settings are LENSEMBLE_GATEWAY_* variables."""
    up.add_argument("--gateway", action="store_true", help="start the gateway (HTTP API), too")
    up.add_argument(
        "--gateway-host", help="address it listens on; one beyond loopback requires --keys"
    )
    up.add_argument("--gateway-port", type=int, help="0 takes a free one (default: 8080)")
    up.add_argument("--keys", type=Path, help="file of API keys (`lensemble keys`)")


def check_gateway(args: argparse.Namespace) -> None:
    """Checks what the gateway needs, before the server has taken a minute to start.

    Args:
        args: Values of the options of `lensemble up`.

    Raises:
        InvalidInputError: A setting cannot be used, a file is missing, the port is taken, or an
            option of the gateway was given without `--gateway`.
        ImportError: A package of the gateway is missing.
    """
    if not args.gateway:
        for option in ("gateway_host", "gateway_port", "keys"):
            if getattr(args, option) is not None:
                raise InvalidInputError("it requires --gateway", field=option)
        return
    from lensemble.gateway.access.keys import KeyFile
    from lensemble.gateway.app import require_keys_beyond_loopback
    from lensemble.operations.ports import free_ports
    from lensemble_contract.tls import Tls

    settings = _settings(args)
    require_keys_beyond_loopback(settings)
    if settings.keys is not None:
        KeyFile(settings.keys)
    if settings.tls is not None:
        Tls.from_folder(settings.tls).check_for_server(mutual=settings.mutual)
    if ":" not in settings.host:  # `free_ports` knows IPv4 and names
        free_ports([settings.port], settings.host)


def make_gateway(
    args: argparse.Namespace, grpc_url: str, metrics_url: str
) -> AbstractContextManager[GatewayServer | None]:
    """Makes the gateway if `--gateway` was given; entering the context starts it.

    Args:
        args: Values of the options of `lensemble up`, which `check_gateway` has checked.
        grpc_url: Triton's gRPC address.
        metrics_url: URL of Triton's metrics.
    """
    if not args.gateway:
        return nullcontext()
    from lensemble.gateway.process import GatewayServer

    settings = _settings(args, triton=grpc_url, metrics=metrics_url)
    return GatewayServer(settings, own_hosts=[args.address])


def _settings(args: argparse.Namespace, **urls: Any) -> GatewaySettings:
    from lensemble.gateway.settings import GatewaySettings

    return GatewaySettings.from_env(
        **urls,
        host=args.gateway_host,
        port=args.gateway_port,
        keys=args.keys,
        tls=args.tls,
        mutual=args.mutual_tls or None,
        triton_tls=args.tls,
    )
