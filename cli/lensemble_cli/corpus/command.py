"""The parser of `lensemble corpus`. The actions are in the other modules of this folder."""

from __future__ import annotations

from lensemble_cli.corpus import embed, index, query, sync
from lensemble_cli.options import Commands


def add_command(commands: Commands) -> None:
    """Adds `lensemble corpus` with its actions."""
    corpus = commands.add_parser("corpus", help="embed a table of pictures or texts, and search it")
    actions = corpus.add_subparsers(required=True, metavar="ACTION")
    embed.add_action(actions)
    index.add_action(actions)
    query.add_action(actions)
    sync.add_action(actions)
