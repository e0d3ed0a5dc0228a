"""`lensemble index stats | verify | compact | snapshot | restore | export`.

A server may use the same index meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from lensemble_cli.index.plan_options import add_plan_options, parse_fields, parse_plan
from lensemble_cli.options import Command, Commands, requiring_extras


def add_actions(actions: Commands) -> None:
    """Adds the actions of this module to `lensemble index`."""
    stats = _add_action(actions, "stats", _stats, "print an index's contents and sizes, as JSON")
    stats.add_argument("index", type=Path)

    verify = _add_action(actions, "verify", _verify, "read a whole index and check every checksum")
    verify.add_argument("index", type=Path)

    compact = _add_action(
        actions, "compact", _compact, "make the next snapshot, optionally of another kind"
    )
    compact.add_argument("index", type=Path)
    add_plan_options(compact)

    snapshot = _add_action(
        actions, "snapshot", _snapshot, "write a backup, even while others write"
    )
    snapshot.add_argument("index", type=Path)
    snapshot.add_argument("backup", type=Path, help="new folder for the backup")

    restore = _add_action(actions, "restore", _restore, "replace an index by a backup")
    restore.add_argument("backup", type=Path)
    restore.add_argument("index", type=Path, help="folder of the index; replaced if it exists")

    export = _add_action(actions, "export", _export, "write vectors.npy and items.jsonl")
    export.add_argument("index", type=Path)
    export.add_argument("out", type=Path)


def _add_action(
    actions: Commands, name: str, run: Command, summary: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=requiring_extras(run, "export,eval,search"))
    return parser


def _stats(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.stats import stats
    from lensemble.index.storage.store import Store

    with Store.open(args.index) as store:
        print(json.dumps(stats(store), indent=2))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.verify import verify

    report = verify(args.index)
    print(f"{args.index}: store undamaged, {report.items} items in {report.rows} rows")
    if report.sequence < report.newest_snapshot_sequence:
        print(
            f"error: the store has lost the writes {report.sequence + 1} to "
            f"{report.newest_snapshot_sequence}, which a snapshot contains: its WAL file "
            "was cut, or an older file was put in its place",
            file=sys.stderr,
        )
        print(
            "run `lensemble index restore` with a later backup, or write them again",
            file=sys.stderr,
        )
        return 1
    if report.snapshot_damage:
        print(f"error: {report.snapshot_damage}", file=sys.stderr)
        print(f"run `lensemble index compact {args.index}`", file=sys.stderr)
        return 1
    print(f"snapshot {report.snapshot} undamaged" if report.snapshot else "no snapshot")
    return 0


def _compact(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.compact import compact
    from lensemble.index.storage.store import Store

    plan, fields = parse_plan(args), parse_fields(args)
    if fields is not None:
        with Store.open(args.index) as store:
            store.set_fields(fields)
    manifest = compact(args.index, plan, threads=len(os.sched_getaffinity(0))).manifest
    print(
        f"{manifest.count} items, {manifest.kind} {manifest.parameters}, "
        f"recall@10 {manifest.recall_at_10:.4f}, up to sequence number {manifest.sequence}"
    )
    return 0


def _snapshot(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import back_up

    print(f"{back_up(args.index, args.backup)} items -> {args.backup}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import restore

    print(f"{restore(args.backup, args.index)} items -> {args.index}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from lensemble.index.maintenance.export import export

    print(f"{export(args.index, args.out, progress=True)} items -> {args.out}")
    return 0
