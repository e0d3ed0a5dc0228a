"""Entry point of the command line; `lensemble --help` lists the commands.

Each command or group of commands has a module (`index` has a folder), which adds its parser here.
The modules import what a command needs only when the command runs, so that `lensemble --help` is
fast and works without extras.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version

from lensemble_cli import (
    compare,
    doctor,
    embed,
    evaluate,
    items,
    keys,
    search,
    status,
    up,
)
from lensemble_cli.command_parser import CommandParser
from lensemble_cli.corpus import command as corpus
from lensemble_cli.index import command as index
from lensemble_contract.closed_output import end_quietly
from lensemble_contract.errors import LensembleError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Command line without the program's name; None takes it from `sys.argv`.

    Returns:
        0 if the command succeeded, 1 if it failed (the reason is on standard error), 130 after
        Ctrl-C, 141 if the output is no longer read, as by `head`.
    """
    return end_quietly(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    args = build_parser().parse_args(arguments)
    try:
        exit_status: int = args.run(args)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return exit_status


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser with all commands. Each sets `run` to the function that runs it."""
    parser: argparse.ArgumentParser = CommandParser(
        prog="lensemble", description="Qwen3-VL embeddings and FAISS search on Triton."
    )
    parser.add_argument("--version", action="version", version=f"lensemble {version('lensemble')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up.add_command(commands)
    embed.add_command(commands)
    search.add_command(commands)
    evaluate.add_command(commands)
    items.add_commands(commands)
    compare.add_command(commands)
    corpus.add_command(commands)
    index.add_command(commands)
    doctor.add_command(commands)
    status.add_command(commands)
    keys.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
