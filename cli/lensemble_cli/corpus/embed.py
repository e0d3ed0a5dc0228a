"""`lensemble corpus embed`: embeds the rows of a table, and writes their vectors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lensemble_cli.corpus.source_options import PATIENT_RETRY, add_source_options, open_source
from lensemble_cli.options import Commands, add_server_options, connect, requiring_extras
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract import contract

# Largest number of failed rows that are printed; `failed.json` lists all of them.
_MAX_PRINTED_FAILURES = 50


def add_action(actions: Commands) -> None:
    """Adds `lensemble corpus embed`."""
    embed = actions.add_parser(
        "embed",
        help="embed the rows of a file through a running server, and write their vectors",
        description="Embed the rows of a file through a running server, and write their vectors. "
        "After an interruption, run it again: it continues where it stopped. docs/corpus.md says "
        "more.",
    )
    add_source_options(embed)
    embed.add_argument("out", type=Path, help="folder of the embeddings")
    embed.add_argument("--format", choices=("npy", "parquet"), default="npy")
    embed.add_argument("--dimensions", type=int, help="Matryoshka length (default: full length)")
    add_embedder_option(embed)
    embed.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, help="requests in flight at a time"
    )
    embed.add_argument(
        "--again", action="store_true", help="discard earlier vectors and embed all rows again"
    )
    add_server_options(embed)
    embed.set_defaults(run=requiring_extras(_embed, "corpus"))


def add_embedder_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--embedder`."""
    parser.add_argument(
        "--embedder",
        choices=tuple(contract.EMBEDDERS),
        default=contract.NATIVE,
        help="the server must have been started with it",
    )


def _embed(args: argparse.Namespace) -> int:
    from lensemble_corpus.embedding_folder import embed_source
    from lensemble_corpus.embeddings_manifest import read_failures

    source = open_source(args)
    with connect(args, PATIENT_RETRY) as client:
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
