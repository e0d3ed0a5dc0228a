"""`lensemble embed`: prints the vector of one item."""

from __future__ import annotations

import argparse
import json

from lensemble_cli.options import (
    Commands,
    add_item_options,
    add_server_options,
    connect,
    note_picture_file,
)
from lensemble_contract import contract


def add_command(commands: Commands) -> None:
    """Adds `lensemble embed`."""
    embed = commands.add_parser("embed", help="print the vector of a text, pictures, or both")
    add_item_options(embed)
    add_server_options(embed)
    embed.add_argument("--dimensions", type=int, help="Matryoshka length (default: full length)")
    embed.add_argument("--embedder", choices=contract.EMBEDDERS, default=contract.NATIVE)
    embed.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    note_picture_file(args.text)
    with connect(args) as client:
        vector = client.embed(
            args.text,
            args.image,
            instruction=args.instruction,
            dimensions=args.dimensions,
            embedder=args.embedder,
        )
    print(json.dumps(vector.tolist()))
    return 0
