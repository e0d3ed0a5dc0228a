"""`lensemble corpus embed | index | query`: embeds and searches a table of pictures and texts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lensemble_cli.index.plan_options import add_plan_options, parse_fields, parse_plan
from lensemble_cli.options import (
    Commands,
    add_item_options,
    add_server_options,
    connect,
    parse_filter,
    print_hits,
    requiring_extras,
)
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item

# Embedding takes hours, and must not fail because the server restarts meanwhile.
_PATIENT_RETRY = Retry(tries=20, max_wait_s=5.0)
# Largest number of failed rows that are printed; `failed.json` lists all of them.
_MAX_PRINTED_FAILURES = 50


def add_command(commands: Commands) -> None:
    """Adds `lensemble corpus` with its actions."""
    corpus = commands.add_parser("corpus", help="embed a table of pictures or texts, and search it")
    actions = corpus.add_subparsers(required=True, metavar="ACTION")
    _add_embed(actions)
    _add_index(actions)
    _add_query(actions)


def _add_embed(actions: Commands) -> None:
    embed = actions.add_parser(
        "embed",
        help="embed the rows of a file through a running server, and write their vectors",
        description="Embed the rows of a file through a running server, and write their vectors. "
        "After an interruption, run it again: it continues where it stopped. docs/corpus.md says "
        "more.",
    )
    embed.add_argument(
        "source", type=Path, help=".json (a list of objects), .jsonl, .csv, .parquet, or a folder"
    )
    embed.add_argument("out", type=Path, help="folder of the embeddings")
    embed.add_argument("--format", choices=("npy", "parquet"), default="npy")
    embed.add_argument(
        "--image-field",
        help="field with the picture's path (default: a usual name in the first row); '' for none",
    )
    embed.add_argument(
        "--id-field", help="field that identifies a row (default: _id, or the picture's path)"
    )
    embed.add_argument(
        "--text", metavar="TEMPLATE", help="text to embed with the picture: '{make}, {damage_type}'"
    )
    embed.add_argument("--instruction", help="replaces the profile's instruction")
    embed.add_argument("--dimensions", type=int, help="Matryoshka length (default: full length)")
    _add_embedder_option(embed)
    embed.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, help="requests in flight at a time"
    )
    embed.add_argument(
        "--again", action="store_true", help="discard earlier vectors and embed all rows again"
    )
    add_server_options(embed)
    embed.set_defaults(run=requiring_extras(_embed, "corpus"))


def _add_index(actions: Commands) -> None:
    summary = "build an index from embeddings, without a server"
    index = actions.add_parser("index", help=summary, description=summary)
    index.add_argument("embeddings", type=Path, help="folder that `corpus embed` wrote")
    index.add_argument("index", type=Path, help="folder of the index; replaced if it exists")
    index.add_argument(
        "--id-field", help="field that identifies a row (default: that of `corpus embed`)"
    )
    add_plan_options(index)
    index.set_defaults(run=requiring_extras(_index, "export,corpus,search"))


def _add_query(actions: Commands) -> None:
    summary = "embed a query through a running server, and search an index on this machine"
    query = actions.add_parser("query", help=summary, description=summary)
    query.add_argument("index", type=Path)
    add_item_options(query)
    _add_embedder_option(query)
    query.add_argument("-k", "--top-k", type=int, default=contract.DEFAULT_TOP_K)
    query.add_argument("--filter", help='condition as JSON, such as \'{"damage_type": "dent"}\'')
    query.add_argument("--json", action="store_true", help="print one JSON object per hit")
    add_server_options(query)
    query.set_defaults(run=requiring_extras(_query, "serve,search"))


def _add_embedder_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--embedder",
        choices=tuple(contract.EMBEDDERS),
        default=contract.NATIVE,
        help="the server must have been started with it",
    )


def _embed(args: argparse.Namespace) -> int:
    from lensemble_corpus.embedding_folder import embed_source
    from lensemble_corpus.embeddings_manifest import read_failures
    from lensemble_corpus.source import Source

    source = Source(
        args.source,
        image_field=args.image_field,
        id_field=args.id_field,
        text=args.text,
        instruction=args.instruction,
    )
    with connect(args, _PATIENT_RETRY) as client:
        result = embed_source(
            client,
            source,
            args.out,
            kind=args.format,
            dimensions=args.dimensions,
            embedder=args.embedder,
            concurrency=args.concurrency,
            again=args.again,
            progress=True,
        )
    if result.unchanged:
        print(f"{args.out} is up to date: nothing has changed", end="; ")
    print(
        f"{result.count} of {result.count + result.failed} rows embedded, "
        f"{result.dimension} dimensions -> {args.out} ({result.sent} sent to the server)"
    )
    for row in read_failures(args.out)[:_MAX_PRINTED_FAILURES]:
        name = row["path"] or row["id"]
        print(f"error: {row['where']}, {name!a}: {row['error']}", file=sys.stderr)
    if result.failed > _MAX_PRINTED_FAILURES:
        print(
            f"... and {result.failed - _MAX_PRINTED_FAILURES} more: {args.out / 'failed.json'}",
            file=sys.stderr,
        )
    return 1 if result.failed or not result.count else 0


def _index(args: argparse.Namespace) -> int:
    from lensemble_export.index_from_embeddings import index_embeddings

    count = index_embeddings(
        args.embeddings,
        args.index,
        id_field=args.id_field,
        plan=parse_plan(args),
        fields=parse_fields(args) or (),
    )
    print(f"{count} items -> {args.index}")
    return 0


def _query(args: argparse.Namespace) -> int:
    from lensemble.index.checks import check_profile
    from lensemble.index.query import Query
    from lensemble.index.search.live_index import LiveIndex

    if not 1 <= args.top_k <= contract.MAX_TOP_K:
        raise InvalidInputError(f"{args.top_k}; expected 1 to {contract.MAX_TOP_K}", field="top_k")
    condition = parse_filter(args.filter)
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
