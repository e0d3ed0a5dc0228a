"""Options for the index plan: the kind of an index, its parameters, its filter fields."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    from lensemble.index.storage.index_plan import IndexPlan

# The kinds of `lensemble.index.snapshots.kinds`. They are repeated here because the command line
# must start without importing `lensemble`.
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


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--kind`, `--recall`, `--memory-mb`, `--set` and `--fields`."""
    parser.add_argument(
        "--kind", choices=KINDS, help="kind of index; auto chooses by size and recall"
    )
    parser.add_argument("--recall", type=float, help="measured recall@10 to reach (default: 0.99)")
    parser.add_argument("--memory-mb", type=int, help="memory that the index may take, in MiB")
    parser.add_argument(
        "--set", action="append", metavar="NAME=NUMBER", help="a parameter, such as nprobe=16"
    )
    parser.add_argument(
        "--fields", help="document fields that filters often use, such as make,year"
    )


def add_replace_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--replace`, for commands that build a new index."""
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace an index that has items; it is kept as INDEX.old, in place of an earlier one",
    )


def print_replaced(index: Path, replace: bool) -> None:
    """Prints where the replaced index is, if there is one.

    Args:
        index: folder of the new index.
        replace: value of the option `--replace`.
    """
    from lensemble.index.maintenance.create import replaced_folder

    kept = replaced_folder(index)
    if replace and kept.is_dir():
        print(f"the earlier index is kept in {kept}; remove it when you no longer need it")


def parse_plan(args: argparse.Namespace) -> IndexPlan | None:
    """Returns the index plan that the options describe; None if none of them was given.

    Args:
        args: Values of the options that `add_plan_options` adds.

    Raises:
        InvalidInputError: The options contradict each other, or a value is out of range.
    """
    from lensemble.index.storage.index_plan import IndexPlan

    options = {
        "kind": args.kind,
        "recall": args.recall,
        "memory_bytes": args.memory_mb and args.memory_mb * 2**20,
        "parameters": _parse_parameters(args.set) if args.set else None,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    if "parameters" in chosen and args.kind in (None, "auto"):
        raise InvalidInputError("parameters need a kind (--kind)", field="set")
    return IndexPlan(**chosen) if chosen else None


def parse_fields(args: argparse.Namespace) -> list[str] | None:
    """Returns the field names in `--fields`; None if the option was not given."""
    return None if args.fields is None else [name for name in args.fields.split(",") if name]


def _parse_parameters(pairs: list[str]) -> dict[str, int]:
    try:
        return {name: int(number) for name, number in (pair.split("=", 1) for pair in pairs)}
    except ValueError as error:
        raise InvalidInputError(f"{pairs}; expected NAME=NUMBER", field="set") from error
