"""Options and functions that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_RETRY, DEFAULT_TIMEOUT_S, DEFAULT_URL
from lensemble_client.retry import Retry
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.texts import quoted
from lensemble_corpus.entries import ENDINGS

URL_VARIABLE = "LENSEMBLE_URL"
TLS_VARIABLE = "LENSEMBLE_TLS"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command: TypeAlias = Callable[[argparse.Namespace], int]


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--url`, `--tls` and `--timeout`."""
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"grpc://host:port or http://host:port (default: {URL_VARIABLE}, or {DEFAULT_URL})",
    )
    parser.add_argument(
        "--tls",
        default=os.environ.get(TLS_VARIABLE),
        help="folder with ca.crt, and with tls.crt and tls.key for mutual TLS "
        f"(default: {TLS_VARIABLE})",
    )
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds")


def connect(args: argparse.Namespace, retry: Retry = DEFAULT_RETRY) -> Client:
    """Connects to the server that the options name.

    Args:
        args: Values of the options that `add_server_options` adds.
        retry: How failed calls are tried again.

    Raises:
        InvalidInputError: The URL or the certificates cannot be used.
    """
    return Client(args.url, tls=args.tls, timeout_s=args.timeout, retry=retry)


def add_item_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the content of one item: the text, `--image` and `--instruction`."""
    parser.add_argument("text", nargs="?", help="text of the item")
    parser.add_argument("--image", action="append", help="picture file; may be given repeatedly")
    parser.add_argument("--instruction", help="replaces the profile's instruction")


def note_picture_file(text: str | None) -> None:
    """Prints a note if the text of an item is the name of a picture file, whose words are used."""
    if not text or not text.lower().endswith(ENDINGS):
        return
    with contextlib.suppress(OSError, ValueError):  # too long a name, or a null character in it
        if Path(text).is_file():
            print(
                f"note: {quoted(text)} is a file, and its name is taken as words; for the picture "
                f"in it: --image {shlex.quote(text)}",
                file=sys.stderr,
            )


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """Parses a filter that was given as JSON text. The result is None if there is no text.

    Raises:
        InvalidInputError: The text is not a JSON object.
    """
    return parse_object(text, "filter") if text else None


def parse_object(text: str, field: str) -> dict[str, Any]:
    """Parses a JSON object that was given as text.

    Args:
        text: The text.
        field: Name of the argument, for errors.

    Raises:
        InvalidInputError: The text is not a JSON object.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{quoted(text)} is not JSON: {error}", field=field) from error
    if not isinstance(parsed, dict):
        raise InvalidInputError(f"{quoted(text)}; expected a JSON object", field=field)
    return parsed


def print_hits(hits: Iterable[tuple[str, float, Mapping[str, Any]]], *, as_json: bool) -> None:
    """Prints hits, nearest first.

    Args:
        hits: Id, score and document of each hit.
        as_json: Whether to print each hit as a JSON object, for other programs to read.
    """
    for rank, (id_, score, fields) in enumerate(hits, start=1):
        document = json.dumps(fields, ensure_ascii=False)
        if as_json:
            print(f'{{"id": {json.dumps(id_)}, "score": {score}, "document": {document}}}')
        else:
            print(f"{rank:3}  {score:7.4f}  {id_}  {document}")


def requiring_extras(run: Command, extras: str) -> Command:
    """Returns a command that also reports which extras to install if a package is missing.

    Args:
        run: The command.
        extras: Names of extras, separated by commas.
    """

    def command(args: argparse.Namespace) -> int:
        # This must be set before FAISS is imported. Otherwise its threads keep CPUs busy while they
        # wait for each other.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            return run(args)
        except ImportError as error:
            return report_missing_package(extras, error)

    return command


def report_missing_package(extra: str, error: ImportError) -> int:
    """Prints which extra installs the missing package, and returns the exit status 1."""
    print(f"error: {error}; run `pip install '.[{extra}]'` in the checkout", file=sys.stderr)
    return 1
