"""`lensemble search`: prints the stored items that are nearest to a query."""

from __future__ import annotations

import argparse
import sys

from lensemble_cli.options import (
    Commands,
    add_item_options,
    add_server_options,
    connect,
    note_picture_file,
    parse_filter,
    print_hits,
)
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


def add_command(commands: Commands) -> None:
    """Adds `lensemble search`."""
    search = commands.add_parser("search", help="print the stored items nearest to a query")
    add_item_options(search)
    add_server_options(search)
    search.add_argument("--dimensions", type=int, help="must equal the length of the index")
    search.add_argument("-k", "--top-k", type=int, default=contract.DEFAULT_TOP_K)
    search.add_argument("--filter", help='condition as JSON, such as \'{"year": {"$gte": 2015}}\'')
    search.add_argument(
        "--exclude", action="append", default=[], metavar="ID", help="item to leave out"
    )
    search.add_argument("--min-score", type=float, help="lowest score of a hit")
    search.add_argument("--like", metavar="ID", help="search from this stored item's vector")
    search.add_argument("--json", action="store_true", help="print one JSON object per hit")
    search.set_defaults(run=_search)


def _search(args: argparse.Namespace) -> int:
    note_picture_file(args.text)
    conditions = {
        "top_k": args.top_k,
        "filter": parse_filter(args.filter),
        "exclude": args.exclude,
        "min_score": args.min_score,
    }
    with connect(args) as client:
        if args.like:
            if args.text or args.image:
                raise InvalidInputError(
                    "it cannot be combined with a text or a picture", field="like"
                )
            hits = client.more_like(args.like, **conditions)
        else:
            hits = client.search(
                args.text,
                args.image,
                instruction=args.instruction,
                dimensions=args.dimensions,
                **conditions,
            )
    for warning in hits.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_hits(((hit.id, hit.score, hit.document) for hit in hits), as_json=args.json)
    return 0
