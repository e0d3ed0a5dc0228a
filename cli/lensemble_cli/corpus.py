"""`lensemble corpus embed | index | query`: a table of pictures and texts, from rows to answers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lensemble_cli.index import add_plan, fields_of, needing_more, plan_of
from lensemble_cli.options import add_server, condition, missing, print_hits
from lensemble_client.client import Client
from lensemble_client.connection import IN_FLIGHT
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item

_PATIENT = Retry(tries=20, most_s=5.0)
"""For hours of work: a server that is gone for some time is asked again."""
_SHOWN = 50
"""Failed rows that are printed; `failed.json` has all."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the actions of `lensemble corpus`."""
    corpus = commands.add_parser("corpus", help="embed a table of pictures or texts, and search it")
    actions = corpus.add_subparsers(required=True, metavar="ACTION")

    text = "embed the rows of a file through a running server, and write their vectors"
    embed = actions.add_parser(
        "embed",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. After a break, run it again: it goes on where "
        "it was. docs/corpus.md says more.",
    )
    embed.add_argument(
        "source", type=Path, help=".json (a list of objects), .jsonl, .csv, .parquet, or a folder"
    )
    embed.add_argument("out", type=Path, help="folder of the embeddings")
    embed.add_argument("--format", choices=("npy", "parquet"), default="npy")
    embed.add_argument(
        "--image-field", help="that has the picture's path; looked for if left out, '' for none"
    )
    embed.add_argument("--id-field", help="that tells rows apart; the picture's path if left out")
    embed.add_argument(
        "--text", metavar="TEMPLATE", help="text to embed with the picture: '{make}, {damage_type}'"
    )
    embed.add_argument("--instruction", help="replaces the profile's instruction")
    embed.add_argument("--dimensions", type=int, help="Matryoshka length; full if left out")
    _add_embedder(embed)
    embed.add_argument("--concurrency", type=int, default=IN_FLIGHT, help="requests at a time")
    embed.add_argument("--again", action="store_true", help="forget what was embedded before")
    add_server(embed)
    embed.set_defaults(run=_embed)

    text = "build an index of embeddings, without a server"
    index = actions.add_parser("index", help=text, description=text)
    index.add_argument("embeddings", type=Path, help="folder that `corpus embed` made")
    index.add_argument("index", type=Path, help="folder of the index; replaced, if it is there")
    index.add_argument(
        "--id-field", help="that tells rows apart; as for `corpus embed` if left out"
    )
    add_plan(index)
    index.set_defaults(run=needing_more(_index, "export,corpus"))

    text = "let a running server embed a query, and search an index on this machine"
    query = actions.add_parser("query", help=text, description=text)
    query.add_argument("index", type=Path)
    query.add_argument("text", nargs="?", help="text of the query")
    query.add_argument("--image", action="append", help="picture file; may be given again")
    query.add_argument("--instruction", help="replaces the profile's instruction")
    _add_embedder(query)
    query.add_argument("-k", "--top-k", type=int, default=contract.DEFAULT_TOP_K)
    query.add_argument("--filter", help='condition as JSON, such as \'{"damage_type": "dent"}\'')
    query.add_argument("--json", action="store_true", help="one JSON object per hit")
    add_server(query)
    query.set_defaults(run=needing_more(_query, "serve"))


def _add_embedder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--embedder",
        choices=tuple(contract.EMBEDDERS),
        default=contract.NATIVE,
        help="the server must have been started with it",
    )


def _embed(given: argparse.Namespace) -> int:
    try:
        from lensemble_corpus.embedding_folder import embed_source, read_failures
        from lensemble_corpus.tables import Source

        source = Source(
            given.source,
            image_field=given.image_field,
            id_field=given.id_field,
            text=given.text,
            instruction=given.instruction,
        )
        with Client(given.url, tls=given.tls, timeout_s=given.timeout, retry=_PATIENT) as client:
            made = embed_source(
                client,
                source,
                given.out,
                kind=given.format,
                dimensions=given.dimensions,
                embedder=given.embedder,
                concurrency=given.concurrency,
                again=given.again,
                progress=True,
            )
    except ImportError as error:
        return missing("corpus", error)
    rows = made.count + made.failed
    if made.unchanged:
        print(f"{given.out} is as it was: nothing has changed", end="; ")
    print(
        f"{made.count} of {rows} rows embedded, {made.dimension} dimensions -> {given.out} "
        f"({made.sent} sent to the server)"
    )
    for row in read_failures(given.out)[:_SHOWN]:
        print(f"error: {row['where']}, {_named(row)!a}: {row['error']}", file=sys.stderr)
    if made.failed > _SHOWN:
        print(f"... and {made.failed - _SHOWN} more: {given.out / 'failed.json'}", file=sys.stderr)
    return 1 if made.failed or not made.count else 0


def _named(row: dict[str, str]) -> str:
    return row["path"] or row["id"]


def _index(given: argparse.Namespace) -> int:
    from lensemble_export.embeddings import index_embeddings

    count = index_embeddings(
        given.embeddings,
        given.index,
        id_field=given.id_field,
        plan=plan_of(given),
        fields=fields_of(given) or (),
    )
    print(f"{count} items -> {given.index}")
    return 0


def _query(given: argparse.Namespace) -> int:
    from lensemble.index import check_profile
    from lensemble.index.query import Query
    from lensemble.index.search.live_index import LiveIndex

    if not 1 <= given.top_k <= contract.MAX_TOP_K:
        raise InvalidInputError(f"{given.top_k}; expected 1 to {contract.MAX_TOP_K}", field="top_k")
    asked = condition(given.filter)
    item = Item.of(given.text, given.image, given.instruction)
    with LiveIndex.open(given.index) as index:
        with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
            (made,) = client.embed_stream(
                [item], dimensions=index.dimension, embedder=given.embedder
            )
        if isinstance(made, LensembleError):
            raise made
        said = index.manifest
        check_profile(said["profile_name"], said["profile_hash"], made.profile)
        text = json.dumps(asked) if asked else ""
        (found,) = index.answer([Query(made.result, given.top_k, text)])
    if isinstance(found, LensembleError):
        raise found
    print_hits(((hit.id, hit.score, json.loads(hit.document)) for hit in found), as_json=given.json)
    return 0
