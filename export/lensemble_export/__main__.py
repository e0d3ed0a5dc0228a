"""Command line of the export tools: `python -m lensemble_export COMMAND --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_contract.errors import LensembleError
from lensemble_export.onnx import command as onnx

if TYPE_CHECKING:
    from lensemble.index.storage.index_plan import IndexPlan


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 if it succeeded, 1 if the input was at fault."""
    parser = argparse.ArgumentParser(prog="python -m lensemble_export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    random = commands.add_parser("random", help="write a checkpoint with random weights")
    random.add_argument("out", type=Path, help="folder to write, in Hugging Face format")
    random.add_argument("--shape", default="tiny", help="tiny, 2b, 4b or 8b")
    random.add_argument("--seed", type=int, default=0)
    random.add_argument(
        "--append-endoftext",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the tokenizer appends <|endoftext|>, as the Embedding checkpoints' does",
    )

    checkpoint = commands.add_parser(
        "checkpoint", help="make a serving checkpoint of a Hugging Face folder or hub id"
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

    verify = commands.add_parser("verify", help="hash every file of a serving checkpoint")
    verify.add_argument("checkpoint", type=Path)

    onnx.add(commands)

    index = commands.add_parser("index", help="embed a corpus or a folder of pictures")
    index.add_argument("source", type=Path)
    index.add_argument("out", type=Path)
    index.add_argument("--checkpoint", type=Path)
    index.add_argument("--dimensions", type=int, help="Matryoshka length; full if left out")
    index.add_argument("--dtype", help="auto, fp32 or bf16")
    index.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read")

    given = parser.parse_args(arguments)
    try:
        _COMMANDS[given.command](given)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}; run `pip install 'lensemble[export]'`", file=sys.stderr)
        return 1
    return 0


def _random(given: argparse.Namespace) -> None:
    from lensemble_export.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(
        given.out,
        given.shape,
        seed=given.seed,
        append_endoftext=given.append_endoftext,
        progress=True,
    )


def _checkpoint(given: argparse.Namespace) -> None:
    from lensemble_export.convert import convert

    convert(
        given.source,
        given.out,
        given.profile,
        append_endoftext=given.append_endoftext,
        min_pixels=given.min_pixels,
        max_pixels=given.max_pixels,
        min_dimension=given.min_dimension,
        report=print,
        progress=True,
    )


def _verify(given: argparse.Namespace) -> None:
    from lensemble.checkpoint import Checkpoint

    profile = Checkpoint.open(given.checkpoint, full=True).profile
    print(f"{given.checkpoint}: whole; {profile.name}, {profile.dimension} dimensions")
    print(profile.hash)


def run_index(
    given: argparse.Namespace, *, plan: IndexPlan | None = None, fields: Sequence[str] = ()
) -> None:
    """The command `index`, here and as `lensemble index build`.

    Args:
        given: `source`, `out`, `checkpoint`, `dtype`, `dimensions`, `skip_bad`.
        plan: How the index is to be searched; None goes by its size.
        fields: Of documents, that get an index for filters.

    Raises:
        LensembleError: The input is at fault.
        ImportError: The extra `export` is not installed.
    """
    from lensemble.settings import Settings
    from lensemble_export.index import build_index

    built = build_index(
        given.source,
        given.out,
        Settings.from_env(checkpoint=given.checkpoint, dtype=given.dtype),
        dimensions=given.dimensions,
        plan=plan,
        fields=fields,
        skip_bad=given.skip_bad,
        progress=True,
    )
    for name, why in built.failed.items():
        print(f"skipped {name!a}: {why}", file=sys.stderr)
    print(f"{built.count} items, {built.dimension} dimensions -> {given.out}")


_COMMANDS = {
    "random": _random,
    "checkpoint": _checkpoint,
    "verify": _verify,
    "onnx": onnx.export,
    "verify-onnx": onnx.verify,
    "index": run_index,
}

if __name__ == "__main__":
    sys.exit(main())
