"""Command line of the export tools: `python -m lensemble_export COMMAND --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lensemble_contract.closed_output import end_quietly
from lensemble_contract.errors import LensembleError
from lensemble_export import index_command
from lensemble_export.onnx import commands as onnx_commands


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 1 if the command failed (the reason is then on standard error), or 141
        if the output is no longer read, as by `head`.
    """
    return end_quietly(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lensemble_export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    random = commands.add_parser("random", help="write a checkpoint with random weights")
    random.add_argument("out", type=Path, help="folder to write, in Hugging Face format")
    random.add_argument("--shape", default="tiny", help="tiny, emoji, small, 2b, 4b or 8b")
    random.add_argument("--seed", type=int, default=0)
    random.add_argument(
        "--append-endoftext",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the tokenizer appends <|endoftext|>, as the Embedding checkpoints' does",
    )
    random.set_defaults(run=_random)

    checkpoint = commands.add_parser(
        "checkpoint", help="make a serving checkpoint from a Hugging Face folder or hub id"
    )
    checkpoint.add_argument("source", help="folder, or hub id such as Qwen/Qwen3-VL-Embedding-2B")
    checkpoint.add_argument("out", type=Path, help="folder to write")
    checkpoint.add_argument(
        "--profile", default="qwen3-vl-embedding", help="qwen3-vl-embedding or qwen3-vl-mean"
    )
    checkpoint.add_argument("--append-endoftext", action=argparse.BooleanOptionalAction)
    checkpoint.add_argument("--min-pixels", type=int)
    checkpoint.add_argument("--max-pixels", type=int)
    checkpoint.add_argument("--min-dimension", type=int, help="smallest Matryoshka length")
    checkpoint.set_defaults(run=_checkpoint)

    verify = commands.add_parser("verify", help="hash every file of a serving checkpoint")
    verify.add_argument("checkpoint", type=Path)
    verify.set_defaults(run=_verify)

    onnx_commands.add_commands(commands)
    index_command.add_command(commands)

    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}; run `pip install '.[export]'` in the checkout", file=sys.stderr)
        return 1
    return 0


def _random(args: argparse.Namespace) -> None:
    from lensemble_export.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(
        args.out,
        args.shape,
        seed=args.seed,
        append_endoftext=args.append_endoftext,
        progress=True,
    )


def _checkpoint(args: argparse.Namespace) -> None:
    from lensemble_export.convert_checkpoint import convert_checkpoint

    convert_checkpoint(
        args.source,
        args.out,
        args.profile,
        append_endoftext=args.append_endoftext,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        min_dimension=args.min_dimension,
        report=print,
        progress=True,
    )


def _verify(args: argparse.Namespace) -> None:
    from lensemble.checkpoint import Checkpoint

    profile = Checkpoint.open(args.checkpoint, full=True).profile
    print(f"{args.checkpoint}: undamaged; {profile.name}, {profile.dimension} dimensions")
    print(profile.hash)


if __name__ == "__main__":
    sys.exit(main())
