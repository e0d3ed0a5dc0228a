"""Options that say how the rows of a table become items."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensemble_client.retry import Retry
from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.csv_files import TYPES, CsvFormat
from lensemble_corpus.source import Source

# Embedding takes hours, and must not fail because the server restarts meanwhile.
PATIENT_RETRY = Retry(tries=20, max_wait_s=5.0)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Adds the table, and the options that `open_source` reads."""
    parser.add_argument(
        "source", type=Path, help=".json (a list of objects), .jsonl, .csv, .parquet, or a folder"
    )
    parser.add_argument(
        "--image-field",
        help="field with the picture or its path (default: image, path or the like, if the first "
        "row has it); '' for none",
    )
    parser.add_argument(
        "--id-field",
        help="field that identifies a row (default: _id, or the picture's path); '' for the rows' "
        "numbers",
    )
    parser.add_argument(
        "--text", metavar="TEMPLATE", help="text to embed with the picture: '{make}, {damage_type}'"
    )
    parser.add_argument("--instruction", help="replaces the profile's instruction")
    parser.add_argument(
        "--encoding",
        help="of a CSV file, such as cp1252 (default: its byte order mark's, or else UTF-8)",
    )
    parser.add_argument(
        "--delimiter",
        help="of a CSV file (default: the one of , ; | and tab that fits the first line)",
    )
    parser.add_argument(
        "--types",
        metavar="COLUMN=TYPE,...",
        help=f"types of columns of a CSV file: {', '.join(TYPES)} (default: text)",
    )


def open_source(args: argparse.Namespace) -> Source:
    """Opens the table that the options of `add_source_options` describe.

    Raises:
        InvalidInputError: The table cannot be read, or an option does not fit it.
        ImportError: PyArrow is needed and not installed.
    """
    return Source(
        args.source,
        image_field=args.image_field,
        id_field=args.id_field,
        text=args.text,
        instruction=args.instruction,
        csv_format=parse_csv_format(args),
    )


def parse_csv_format(args: argparse.Namespace) -> CsvFormat | None:
    """Returns what the options say about a CSV file; None if none of them was given.

    Raises:
        InvalidInputError: An option is malformed, or its value unknown.
    """
    if not any((args.encoding, args.delimiter, args.types)):
        return None
    pairs = [pair.rpartition("=") for pair in (args.types or "").split(",") if pair]
    for column, _, type_ in pairs:
        if not column or not type_:
            raise InvalidInputError(f"{args.types!r}; expected COLUMN=TYPE,...", field="types")
    # A tab is hard to type in a shell.
    delimiter = "\t" if args.delimiter in ("\\t", "tab") else args.delimiter or ""
    return CsvFormat(args.encoding or "", delimiter, {column: type_ for column, _, type_ in pairs})
