"""`lensemble index build`: embeds a corpus or pictures on this machine and writes an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensemble_cli.index.plan_options import (
    add_plan_options,
    add_replace_option,
    parse_fields,
    parse_plan,
    print_replaced,
)
from lensemble_cli.options import Commands, requiring_extras


def add_action(actions: Commands) -> None:
    """Adds `lensemble index build`."""
    summary = "embed a corpus or pictures and write an index"
    build = actions.add_parser("build", help=summary, description=summary)
    build.add_argument(
        "source",
        type=Path,
        help="folder with corpus.jsonl, or with pictures: NAME.json beside NAME.jpg describes it",
    )
    build.add_argument("out", type=Path, help="folder of the index")
    build.add_argument("--checkpoint", type=Path, help="serving checkpoint")
    build.add_argument("--dimensions", type=int, help="Matryoshka length (default: full length)")
    build.add_argument("--dtype", help="auto, fp32 or bf16")
    build.add_argument("--skip-bad", action="store_true", help="leave out items that fail")
    add_replace_option(build)
    add_plan_options(build)
    build.set_defaults(run=requiring_extras(_build, "export,eval,search"))


def _build(args: argparse.Namespace) -> int:
    from lensemble_export.index_command import build_index_from_args

    build_index_from_args(args, plan=parse_plan(args), fields=parse_fields(args) or ())
    print_replaced(args.out, args.replace)
    return 0
