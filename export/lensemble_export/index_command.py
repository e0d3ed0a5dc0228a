"""The command `python -m lensemble_export index`, which is also `lensemble index build`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensemble.index.storage.index_plan import IndexPlan


def add_command(commands: Any) -> None:
    """Adds `index` to the command line of the export tools."""
    index = commands.add_parser("index", help="embed a corpus or a folder of pictures")
    index.add_argument("source", type=Path)
    index.add_argument("out", type=Path)
    index.add_argument("--checkpoint", type=Path)
    index.add_argument("--dimensions", type=int, help="Matryoshka length (default: full length)")
    index.add_argument("--dtype", help="auto, fp32 or bf16")
    index.add_argument("--skip-bad", action="store_true", help="leave out items that fail")
    index.add_argument("--replace", action="store_true", help="replace an index that has items")
    index.set_defaults(run=build_index_from_args)


def build_index_from_args(
    args: argparse.Namespace, *, plan: IndexPlan | None = None, fields: Sequence[str] = ()
) -> None:
    """Embeds a corpus, writes an index, and prints its number of items.

    Args:
        args: `source`, `out`, `checkpoint`, `dtype`, `dimensions`, `skip_bad`, `replace`.
        plan: index plan; None chooses one by the number of items.
        fields: document fields that get an SQL index, for filters.

    Raises:
        LensembleError: An item cannot be embedded, or the index cannot be written.
        ImportError: The extra `export` is not installed.
    """
    from lensemble.settings import Settings
    from lensemble_export.index_from_corpus import build_index

    result = build_index(
        args.source,
        args.out,
        Settings.from_env(checkpoint=args.checkpoint, dtype=args.dtype),
        dimensions=args.dimensions,
        plan=plan,
        fields=fields,
        skip_bad=args.skip_bad,
        replace=args.replace,
        progress=True,
    )
    for id_, reason in result.failed.items():
        print(f"skipped {id_!a}: {reason}", file=sys.stderr)
    print(f"{result.count} items, {result.dimension} dimensions -> {args.out}")
