"""`lensemble keys`: makes, lists and removes the API keys of the gateway."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensemble_cli.options import Commands


def add_command(commands: Commands) -> None:
    """Adds `lensemble keys` with its actions."""
    keys = commands.add_parser("keys", help="make, list and remove the gateway's API keys")
    actions = keys.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser("add", help="make a key and print it; it is shown only once")
    add.add_argument("name", help="who uses the key")
    add.add_argument(
        "--scope",
        choices=("metrics", "read", "write"),
        default="read",
        help="what the key allows; each scope includes those before it",
    )
    add.set_defaults(run=_add)

    list_ = actions.add_parser("list", help="print names and scopes of all keys")
    list_.set_defaults(run=_list)

    remove = actions.add_parser("remove", help="remove a key; it is refused from then on")
    remove.add_argument("name")
    remove.set_defaults(run=_remove)

    for action in (add, list_, remove):
        action.add_argument(
            "--keys", type=Path, default=Path("keys.json"), help="file of keys (default: keys.json)"
        )


def _add(args: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import add

    print(add(args.keys, args.name, args.scope))
    return 0


def _list(args: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import load

    for key in load(args.keys):
        print(f"{key.name}  {key.scope}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from lensemble.gateway.access.keys import remove

    remove(args.keys, args.name)
    return 0
