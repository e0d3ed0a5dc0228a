"""`lensemble corpus query`: searches an index on this machine for an item that a server embeds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lensemble_cli.corpus.embed import add_embedder_option
from lensemble_cli.options import (
    Commands,
    add_item_options,
    add_server_options,
    connect,
    note_picture_file,
    parse_filter,
    print_hits,
    requiring_extras,
)
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item


def add_action(actions: Commands) -> None:
    """Adds `lensemble corpus query`."""
    summary = "embed a query through a running server, and search an index on this machine"
    query = actions.add_parser("query", help=summary, description=summary)
    query.add_argument("index", type=Path)
    add_item_options(query)
    add_embedder_option(query)
    query.add_argument("-k", "--top-k", type=int, default=contract.DEFAULT_TOP_K)
    query.add_argument("--filter", help='condition as JSON, such as \'{"damage_type": "dent"}\'')
    query.add_argument("--json", action="store_true", help="print one JSON object per hit")
    add_server_options(query)
    query.set_defaults(run=requiring_extras(_query, "serve,search"))


def _query(args: argparse.Namespace) -> int:
    from lensemble.index.checks import check_profile
    from lensemble.index.query import Query
    from lensemble.index.search.live_index import LiveIndex

    if not 1 <= args.top_k <= contract.MAX_TOP_K:
        raise InvalidInputError(f"{args.top_k}; expected 1 to {contract.MAX_TOP_K}", field="top_k")
    condition = parse_filter(args.filter)
    note_picture_file(args.text)
    item = Item.of(args.text, args.image, args.instruction)
    with LiveIndex.open(args.index) as index:
        with connect(args) as client:
            (embedded,) = client.embed_stream(
                [item], dimensions=index.dimension, embedder=args.embedder
            )
        if isinstance(embedded, LensembleError):
            raise embedded
        manifest = index.manifest
        check_profile(manifest["profile_name"], manifest["profile_hash"], embedded.profile)
        filter_text = json.dumps(condition) if condition else ""
        (hits,) = index.answer([Query(embedded.result, args.top_k, filter_text)])
    if isinstance(hits, LensembleError):
        raise hits
    print_hits(((hit.id, hit.score, json.loads(hit.document)) for hit in hits), as_json=args.json)
    return 0
