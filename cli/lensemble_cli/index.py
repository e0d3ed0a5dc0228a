"""`lensemble index ...`: work on an index's folder, beside a running server or without one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_cli.options import missing
from lensemble_contract.errors import InvalidInputError, LensembleError

if TYPE_CHECKING:
    from lensemble.index.storage.index_plan import IndexPlan

KINDS = (
    "auto",
    "exact",
    "fp16",
    "sq8",
    "binary",
    "ivf",
    "ivf_sq8",
    "ivf_pq",
    "ivf_binary",
    "hnsw",
)
"""Those of `lensemble.index.snapshots.kinds`, which this light module does not import."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the actions of `lensemble index`."""
    index = commands.add_parser("index", help="work on an index")
    actions = index.add_subparsers(required=True, metavar="ACTION")

    build = _action(actions, "build", _build, "embed a corpus or pictures and write an index")
    build.add_argument(
        "source",
        type=Path,
        help="folder with corpus.jsonl, or with pictures: NAME.json beside NAME.jpg describes it",
    )
    build.add_argument("out", type=Path, help="folder of the index")
    build.add_argument("--checkpoint", type=Path, help="serving checkpoint")
    build.add_argument("--dimensions", type=int, help="Matryoshka length; full if left out")
    build.add_argument("--dtype", help="auto, fp32 or bf16")
    build.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read")
    add_plan(build)

    stats = _action(actions, "stats", _stats, "print what an index is and takes, as JSON")
    stats.add_argument("index", type=Path)

    verify = _action(actions, "verify", _verify, "read all of an index and check every checksum")
    verify.add_argument("index", type=Path)

    compact = _action(actions, "compact", _compact, "make the next snapshot, of another kind too")
    compact.add_argument("index", type=Path)
    add_plan(compact)

    snapshot = _action(actions, "snapshot", _snapshot, "write a backup while others write")
    snapshot.add_argument("index", type=Path)
    snapshot.add_argument("backup", type=Path, help="a new folder")

    restore = _action(actions, "restore", _restore, "put a backup in an index's place")
    restore.add_argument("backup", type=Path)
    restore.add_argument("index", type=Path, help="replaced, if it is there")

    export = _action(actions, "export", _export, "write vectors.npy and items.jsonl")
    export.add_argument("index", type=Path)
    export.add_argument("out", type=Path)

    tune = _action(actions, "tune", _tune, "measure kinds of index on an index's own vectors")
    tune.add_argument("index", type=Path)
    tune.add_argument("--kinds", help="such as exact,ivf,hnsw; all if left out")
    tune.add_argument("--queries", type=Path, help="(Q, D) .npy of vectors such as are asked")
    tune.add_argument("--json", type=Path, help="file to write the figures to")
    tune.add_argument("--plot", type=Path, help="PNG to draw recall against speed and memory")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=needing_more(run, "export,eval"))
    return parser


def needing_more(
    run: Callable[[argparse.Namespace], int], extras: str
) -> Callable[[argparse.Namespace], int]:
    """A command that says which extras it needs, where they are not there.

    Args:
        run: The command.
        extras: Names with commas between.
    """

    def command(given: argparse.Namespace) -> int:
        # Before FAISS is imported: its threads would spin while they wait for each other.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            return run(given)
        except ImportError as error:
            return missing(extras, error)

    return command


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds how an index is to be searched."""
    parser.add_argument("--kind", choices=KINDS, help="how to search; auto goes by size and recall")
    parser.add_argument("--recall", type=float, help="recall@10 to reach, measured (default 0.99)")
    parser.add_argument("--memory-mb", type=int, help="that the index may take")
    parser.add_argument(
        "--set", action="append", metavar="NAME=NUMBER", help="a parameter, such as nprobe=16"
    )
    parser.add_argument("--fields", help="of documents, that filters use much: make,year")


def plan_of(given: argparse.Namespace) -> IndexPlan | None:
    """The plan that options ask for; None if they ask for none.

    Raises:
        InvalidInputError: They do not fit together.
    """
    from lensemble.index.storage.index_plan import IndexPlan

    said = {
        "kind": given.kind,
        "recall": given.recall,
        "memory_bytes": given.memory_mb and given.memory_mb * 2**20,
        "parameters": _numbers(given.set) if given.set else None,
    }
    asked = {name: value for name, value in said.items() if value is not None}
    if "parameters" in asked and given.kind in (None, "auto"):
        raise InvalidInputError("parameters need a kind (--kind)", field="set")
    return IndexPlan(**asked) if asked else None


def _numbers(pairs: list[str]) -> dict[str, int]:
    try:
        return {name: int(number) for name, number in (pair.split("=", 1) for pair in pairs)}
    except ValueError as error:
        raise InvalidInputError(f"{pairs}; expected NAME=NUMBER", field="set") from error


def fields_of(given: argparse.Namespace) -> list[str] | None:
    """The fields that `--fields` names; None if it is not given."""
    return None if given.fields is None else [one for one in given.fields.split(",") if one]


def _build(given: argparse.Namespace) -> int:
    from lensemble_export.__main__ import run_index

    run_index(given, plan=plan_of(given), fields=fields_of(given) or ())
    return 0


def _stats(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.stats import stats
    from lensemble.index.storage.store import Store

    with Store.open(given.index) as store:
        print(json.dumps(stats(store), indent=2))
    return 0


def _verify(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import verify

    report = verify(given.index)
    print(f"{given.index}: store whole, {report.items} items in {report.rows} rows")
    if report.sequence < report.newest:
        print(
            f"error: changes {report.sequence + 1} to {report.newest} were lost: a snapshot was "
            "made of them, and the store ends before (its log was cut, or an older file put back)",
            file=sys.stderr,
        )
        print(
            "run `lensemble index restore` with a later backup, or write them again",
            file=sys.stderr,
        )
        return 1
    if report.damage:
        print(f"error: {report.damage}", file=sys.stderr)
        print(f"run `lensemble index compact {given.index}`", file=sys.stderr)
        return 1
    print(f"snapshot {report.snapshot} whole" if report.snapshot else "no snapshot")
    return 0


def _compact(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.compact import compact
    from lensemble.index.storage.store import Store

    plan, fields = plan_of(given), fields_of(given)
    if fields is not None:
        with Store.open(given.index) as store:
            store.set_fields(fields)
    made = compact(given.index, plan, threads=len(os.sched_getaffinity(0))).manifest
    print(
        f"{made.count} items, {made.kind} {made.parameters}, recall@10 {made.recall_at_10:.4f}, "
        f"through change {made.sequence}"
    )
    return 0


def _snapshot(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import back_up

    print(f"{back_up(given.index, given.backup)} items -> {given.backup}")
    return 0


def _restore(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import restore

    print(f"{restore(given.backup, given.index)} items -> {given.index}")
    return 0


def _export(given: argparse.Namespace) -> int:
    from lensemble.index.maintenance.backup import export

    print(f"{export(given.index, given.out, progress=True)} items -> {given.out}")
    return 0


def _tune(given: argparse.Namespace) -> int:
    from lensemble_export.tune import plot, tune

    points = []
    print(f"{'kind':8} {'parameters':34} {'recall@10':>9} {'ms, 1':>8} {'ms, 32':>8} {'MiB':>8}")
    for point in tune(given.index, given.kinds and given.kinds.split(","), given.queries):
        points.append(point)
        said = " ".join(f"{name}={number}" for name, number in point.parameters.items())
        print(
            f"{point.kind:8} {said:34} {point.recall_at_10:9.4f} {point.ms_1:8.3f} "
            f"{point.ms_32:8.3f} {point.memory_bytes / 2**20:8.1f}",
            flush=True,
        )
    try:
        if given.json:
            from dataclasses import asdict

            given.json.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
        if given.plot:
            print(plot(points, given.plot))
    except OSError as error:
        raise LensembleError(f"cannot write the result: {error}") from error
    return 0
