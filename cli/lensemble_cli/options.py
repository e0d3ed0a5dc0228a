"""What several commands share: where the server is, conditions, hits as text."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from lensemble_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from lensemble_contract.errors import InvalidInputError

URL_VARIABLE = "LENSEMBLE_URL"
TLS_VARIABLE = "LENSEMBLE_TLS"


def add_server(parser: argparse.ArgumentParser) -> None:
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


def condition(text: str | None) -> dict[str, Any] | None:
    """A filter that was given as JSON text; None if none was.

    Raises:
        InvalidInputError: It is not a JSON object.
    """
    try:
        found = json.loads(text) if text else None
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is not JSON: {error}", field="filter") from error
    if not isinstance(found, dict | None):
        raise InvalidInputError(f"{text!r}; expected a JSON object", field="filter")
    return found


def print_hits(hits: Iterable[tuple[str, float, Mapping[str, Any]]], *, as_json: bool) -> None:
    """Prints hits, nearest first.

    Args:
        hits: Id, score and document of each.
        as_json: Whether each is a JSON object, for programs.
    """
    for rank, (id_, score, said) in enumerate(hits, start=1):
        document = json.dumps(said, ensure_ascii=False)
        if as_json:
            print(f'{{"id": {json.dumps(id_)}, "score": {score}, "document": {document}}}')
        else:
            print(f"{rank:3}  {score:7.4f}  {id_}  {document}")


def missing(extra: str, error: ImportError) -> int:
    """Says which extra has what a command lacks; returns the command's status."""
    print(f"error: {error}; run `pip install 'lensemble[{extra}]'`", file=sys.stderr)
    return 1
