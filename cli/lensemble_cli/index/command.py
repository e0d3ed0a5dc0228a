"""The parser of `lensemble index`. The actions are in the other modules of this folder."""

from __future__ import annotations

from lensemble_cli.index import build, maintenance, tune
from lensemble_cli.options import Commands


def add_command(commands: Commands) -> None:
    """Adds `lensemble index` with its actions."""
    index = commands.add_parser("index", help="work on an index")
    actions = index.add_subparsers(required=True, metavar="ACTION")
    build.add_action(actions)
    maintenance.add_actions(actions)
    tune.add_action(actions)
