"""`lensemble corpus sync`: makes the items of a table in a live index equal to its rows."""

from __future__ import annotations

import argparse
import sys

from lensemble_cli.corpus.source_options import PATIENT_RETRY, add_source_options, open_source
from lensemble_cli.options import Commands, add_server_options, connect, requiring_extras
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_corpus.sync.row_sync import Outcome
from lensemble_corpus.sync.table_sync import sync_table

# Largest number of failed rows that are printed.
_MAX_PRINTED_FAILURES = 50


def add_action(actions: Commands) -> None:
    """Adds `lensemble corpus sync`."""
    sync = actions.add_parser(
        "sync",
        help="make the items of a table in a live index equal to its rows",
        description="Add, change and remove items of an index through a running server, until they "
        "are equal to the rows of a table. Only what differs is written, and only rows whose text "
        "or pictures differ are embedded. Items that are not of this table stay as they are.",
    )
    add_source_options(sync)
    sync.add_argument(
        "--name", help="name by which the table's items are recognized (default: its file's name)"
    )
    sync.add_argument(
        "--dry-run", action="store_true", help="print what would change, and write nothing"
    )
    sync.add_argument(
        "--remove-most",
        action="store_true",
        help="remove items even if they are more than half of those of the table",
    )
    sync.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, help="rows in work at a time"
    )
    add_server_options(sync)
    sync.set_defaults(run=requiring_extras(_sync, "corpus"))


def _sync(args: argparse.Namespace) -> int:
    source = open_source(args)
    with connect(args, PATIENT_RETRY) as client:
        summary = sync_table(
            client,
            source,
            name=args.name,
            dry_run=args.dry_run,
            remove_most=args.remove_most,
            concurrency=args.concurrency,
            report=_print_item if args.dry_run else None,
            progress=not args.dry_run,
        )
    counts = ", ".join(f"{summary.counts[outcome]} {outcome}" for outcome in Outcome)
    would = "nothing was written; it would be: " if args.dry_run else ""
    print(f"{would}{counts}; {summary.others} other items in the index")
    if summary.kept:
        print(
            f"error: {summary.kept} items whose rows are missing were not removed: "
            f"{summary.why_kept}",
            file=sys.stderr,
        )
    for row in summary.failed[:_MAX_PRINTED_FAILURES]:
        print(f"error: {row.where}, {row.id!a}: {row.error}", file=sys.stderr)
    if len(summary.failed) > _MAX_PRINTED_FAILURES:
        print(f"... and {len(summary.failed) - _MAX_PRINTED_FAILURES} more", file=sys.stderr)
    return 1 if summary.failed or summary.kept else 0


def _print_item(outcome: Outcome, id_: str) -> None:
    print(f"{outcome:16}  {id_}")
