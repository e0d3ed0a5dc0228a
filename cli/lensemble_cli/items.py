"""`lensemble ingest | get | delete`: stores, reads and removes items through a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensemble_cli.options import Commands, add_server_options, connect
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Record
from lensemble_corpus.entries import find_entries


def add_commands(commands: Commands) -> None:
    """Adds `lensemble ingest`, `lensemble get` and `lensemble delete`."""
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


def _delete(args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(args.ids))
    with connect(args) as client:
        sequences = client.delete(ids)
    missing = [id_ for id_, sequence in zip(ids, sequences, strict=True) if not sequence]
    print(f"{len(ids) - len(missing)} of {len(ids)} items removed")
    for id_ in missing:
        print(f"error: {id_!a}: no such item in the index", file=sys.stderr)
    return 1 if missing else 0
