"""`lensemble ingest | get | list | count | patch | delete`: items of the index of a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from lensemble_cli.options import (
    Commands,
    add_server_options,
    connect,
    parse_filter,
    parse_object,
)
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Record
from lensemble_corpus.entries import find_entries


def add_commands(commands: Commands) -> None:
    """Adds the commands of this module."""
    ingest = commands.add_parser(
        "ingest",
        help="embed a corpus or pictures and store them through a running server",
        description="After an interruption, run it again: items that are stored already are not "
        "sent again.",
    )
    ingest.add_argument("source", type=Path, help="folder, as for `index build`")
    ingest.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, help="requests in flight at a time"
    )
    ingest.add_argument(
        "--again", action="store_true", help="also send items that are stored already"
    )
    add_server_options(ingest)
    ingest.set_defaults(run=_ingest)

    get = commands.add_parser("get", help="print a stored item's document")
    get.add_argument("id")
    get.add_argument("--vector", action="store_true", help="print its vector, too")
    add_server_options(get)
    get.set_defaults(run=_get)

    list_ = commands.add_parser("list", help="print stored items, in the order of their ids")
    list_.add_argument("--filter", help='condition as JSON, such as \'{"year": {"$gte": 2015}}\'')
    list_.add_argument("--limit", type=int, help="largest number of items (default: all)")
    list_.add_argument("--ids", action="store_true", help="print the ids alone, one a line")
    list_.add_argument("--json", action="store_true", help="print one JSON object per item")
    add_server_options(list_)
    list_.set_defaults(run=_list)

    count = commands.add_parser("count", help="print the number of stored items")
    count.add_argument("--filter", help='condition as JSON, such as \'{"year": {"$gte": 2015}}\'')
    add_server_options(count)
    count.set_defaults(run=_count)

    patch = commands.add_parser(
        "patch",
        help="change the document of a stored item, without embedding it again",
        description="Merge a JSON object into the document of a stored item: its fields replace "
        "those of the document, and null removes a field.",
    )
    patch.add_argument("id")
    patch.add_argument("document", help="JSON object, such as '{\"sold\": true}'")
    patch.add_argument(
        "--replace", action="store_true", help="let the object replace the whole document"
    )
    add_server_options(patch)
    patch.set_defaults(run=_patch)

    delete = commands.add_parser("delete", help="remove stored items")
    delete.add_argument("ids", nargs="+", metavar="ID")
    add_server_options(delete)
    delete.set_defaults(run=_delete)


def _ingest(args: argparse.Namespace) -> int:
    entries = find_entries(args.source)
    failures: dict[str, LensembleError] = {}
    sent_ids: list[str] = []

    def records() -> Iterator[Record]:
        for entry in entries:
            try:
                record = entry.record()
            except LensembleError as error:
                failures[entry.id] = error
                continue
            sent_ids.append(entry.id)
            yield record

    with connect(args) as client:
        results = client.ingest_many(
            records(), resume=not args.again, concurrency=args.concurrency, progress=True
        )
    failures |= {
        id_: result
        for id_, result in zip(sent_ids, results, strict=True)
        if isinstance(result, LensembleError)
    }
    print(f"{len(entries) - len(failures)} of {len(entries)} items stored")
    for id_, error in failures.items():
        print(f"error: {id_!a}: {error}", file=sys.stderr)
    return 1 if failures else 0


def _get(args: argparse.Namespace) -> int:
    with connect(args) as client:
        stored = client.get(args.id)
    fields: dict[str, Any] = {"id": stored.id, "document": stored.document}
    if args.vector:
        fields["vector"] = stored.embedding.tolist()
    print(json.dumps({**fields, "sequence": stored.sequence}, ensure_ascii=False))
    return 0


def _list(args: argparse.Namespace) -> int:
    condition = parse_filter(args.filter)
    if args.limit is not None and args.limit < 1:
        raise InvalidInputError(f"{args.limit}; expected 1 or more", field="limit")
    with connect(args) as client, closing(client.list_items(condition)) as items:
        for item in islice(items, args.limit):
            if args.ids:
                print(item.id)
                continue
            document = json.dumps(item.document, ensure_ascii=False)
            if args.json:
                head = f'{{"id": {json.dumps(item.id)}, "sequence": {item.sequence}'
                print(f'{head}, "document": {document}}}')
            else:
                print(f"{item.id}  {document}")
    return 0


def _count(args: argparse.Namespace) -> int:
    condition = parse_filter(args.filter)
    with connect(args) as client:
        print(client.count(condition))
    return 0


def _patch(args: argparse.Namespace) -> int:
    document = parse_object(args.document, "document")
    with connect(args) as client:
        sequence = client.patch(args.id, document, replace=args.replace)
    print(f"{args.id}: document changed, sequence number {sequence}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(args.ids))
    with connect(args) as client:
        sequences = client.delete(ids)
    missing = [id_ for id_, sequence in zip(ids, sequences, strict=True) if not sequence]
    print(f"{len(ids) - len(missing)} of {len(ids)} items removed")
    for id_ in missing:
        print(f"error: {id_!a}: no such item in the index", file=sys.stderr)
    return 1 if missing else 0
