"""`lensemble corpus index`: builds an index from embeddings, without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensemble_cli.index.plan_options import (
    add_plan_options,
    add_replace_option,
    parse_fields,
    parse_plan,
    print_replaced,
)
from lensemble_cli.options import Commands, requiring_extras


def add_action(actions: Commands) -> None:
    """Adds `lensemble corpus index`."""
    summary = "build an index from embeddings, without a server"
    index = actions.add_parser("index", help=summary, description=summary)
    index.add_argument("embeddings", type=Path, help="folder that `corpus embed` wrote")
    index.add_argument("index", type=Path, help="folder of the index")
    index.add_argument(
        "--id-field", help="field that identifies a row (default: that of `corpus embed`)"
    )
    add_replace_option(index)
    add_plan_options(index)
    index.set_defaults(run=requiring_extras(_index, "export,corpus,search"))


def _index(args: argparse.Namespace) -> int:
    from lensemble_export.index_from_embeddings import index_embeddings

    count = index_embeddings(
        args.embeddings,
        args.index,
        id_field=args.id_field,
        plan=parse_plan(args),
        fields=parse_fields(args) or (),
        replace=args.replace,
    )
    print(f"{count} items -> {args.index}")
    print_replaced(args.index, args.replace)
    return 0
