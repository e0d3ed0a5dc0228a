"""Command line of the gateway: `lensemble keys`, and the gateway beside `lensemble up`."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    from lensemble.gateway.process import GatewayServer


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `lensemble keys`."""
    keys = commands.add_parser("keys", help="make, list and remove the gateway's API keys")
    actions = keys.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser("add", help="make a key and print it; it is shown only once")
    add.add_argument("name", help="whose it is")
    add.add_argument(
        "--scope",
        choices=("metrics", "read", "write"),
        default="read",
        help="each may do what stands before it, too",
    )
    add.set_defaults(run=_add)

    listed = actions.add_parser("list", help="print whose keys there are")
    listed.set_defaults(run=_list)

    remove = actions.add_parser("remove", help="remove a key; it is refused from then on")
    remove.add_argument("name")
    remove.set_defaults(run=_remove)

    for action in (add, listed, remove):
        action.add_argument(
            "--keys", type=Path, default=Path("keys.json"), help="file of keys (default: keys.json)"
        )


def add_options(up: argparse.ArgumentParser) -> None:
    """Adds the gateway's options to `lensemble up`; the rest are LENSEMBLE_GATEWAY_* variables."""
    up.add_argument("--gateway", action="store_true", help="start the gateway (HTTP API), too")
    up.add_argument("--gateway-host", help="where it listens; beyond loopback it needs --keys")
    up.add_argument("--gateway-port", type=int, help="0 takes a free one (default: 8080)")
    up.add_argument("--keys", type=Path, help="file of API keys (`lensemble keys`)")


def gateway_beside(
    given: argparse.Namespace, grpc_url: str, metrics_url: str
) -> AbstractContextManager[GatewayServer | None]:
    """The gateway that `lensemble up` was asked for, not yet started; nothing if it was not.

    Raises:
        InvalidInputError: A setting cannot be used, or there are options without `--gateway`.
    """
    if not given.gateway:
        for option in ("gateway_host", "gateway_port", "keys"):
            if getattr(given, option) is not None:
                raise InvalidInputError("it goes with --gateway", field=option)
        return nullcontext()
    from lensemble.gateway.app import check
    from lensemble.gateway.process import GatewayServer
    from lensemble.gateway.settings import GatewaySettings

    settings = GatewaySettings.from_env(
        triton=grpc_url,
        metrics=metrics_url,
        host=given.gateway_host,
        port=given.gateway_port,
        keys=given.keys,
        tls=given.tls,
        mutual=given.mutual_tls or None,
        triton_tls=given.tls,
    )
    check(settings)
    return GatewayServer(settings)


def _add(given: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import add

    print(add(given.keys, given.name, given.scope))
    return 0


def _list(given: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import load

    for key in load(given.keys):
        print(f"{key.name}  {key.scope}")
    return 0


def _remove(given: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import remove

    remove(given.keys, given.name)
    return 0
