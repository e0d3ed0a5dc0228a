"""Reads table files: JSON, JSON Lines, CSV and Parquet.

Rows are read one by one, except that a JSON list is read as a whole. If a row is not valid, its
`TableRow` has an error, and the rows after it are read. If the file as a whole is not valid, an
exception is raised.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.csv_files import CsvFormat, read_csv

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a file.

    Attributes:
        where: Its position in the file, such as `line 3`.
        fields: Field name -> value.
        error: What is wrong with the row; empty if nothing is.
    """

    where: str
    fields: dict[str, Any]
    error: str = ""


def open_table(
    path: Path, csv_format: CsvFormat | None = None
) -> tuple[Callable[[], Iterator[TableRow]], int]:
    """Checks a file as a whole, and returns a reader and the number of rows.

    Args:
        path: `.json` (a list of objects), `.jsonl`, `.ndjson`, `.csv` or `.parquet`.
        csv_format: How a CSV file is to be read; None for the usual way, and for other files.

    Returns:
        A function that reads the rows from the beginning whenever it is called, and the number of
        rows.

    Raises:
        InvalidInputError: The file cannot be read, or its ending is not supported.
        ImportError: PyArrow is needed and not installed.
    """
    ending = path.suffix.lower()
    if csv_format is not None and ending != ".csv":
        raise InvalidInputError(
            f"{str(path)!r} is no CSV file, so it has no encoding, delimiter or types to give",
            field="source",
        )
    if ending == ".parquet":
        from lensemble_corpus import parquet_files

        return lambda: _number_rows(parquet_files.read_rows(path)), parquet_files.count_rows(path)
    if ending == ".json":
        rows = _read_json(path)
        return lambda: iter(rows), len(rows)
    if ending in (".jsonl", ".ndjson"):
        return lambda: _read_file(path, _json_lines), _count(_read_file(path, _filled_lines))
    if ending == ".csv":
        read = partial(_csv_rows, format_=csv_format or CsvFormat())
        return lambda: _read_file(path, read), _count(_read_file(path, read))
    raise InvalidInputError(
        f"{str(path)!r}; expected .json, .jsonl, .csv, .parquet, or a folder", field="source"
    )


def _read_file(path: Path, read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
    """Yields what a reader yields, and raises its exceptions as errors that name the file."""
    try:
        yield from read(path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def _count(rows: Iterable[object]) -> int:
    return sum(1 for _ in rows)


def _number_rows(rows: Iterator[dict[str, Any]]) -> Iterator[TableRow]:
    return (TableRow(f"row {number}", fields) for number, fields in enumerate(rows, start=1))


def _read_json(path: Path) -> list[TableRow]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error
    if not isinstance(rows, list):
        raise InvalidInputError(
            f"{str(path)!r} contains a JSON {type(rows).__name__}; expected a list of objects",
            field="source",
        )
    return [_object_row(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from ((n, line) for n, line in enumerate(file, start=1) if not line.isspace())


def _json_lines(path: Path) -> Iterator[TableRow]:
    for number, line in _filled_lines(path):
        where = f"line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield TableRow(where, {}, f"not JSON: {error}")
        else:
            yield _object_row(where, value)


def _object_row(where: str, value: object) -> TableRow:
    if isinstance(value, dict):
        return TableRow(where, value)
    return TableRow(where, {}, f"a JSON {type(value).__name__}; expected an object")


def _csv_rows(path: Path, format_: CsvFormat) -> Iterator[TableRow]:
    for line, fields, error in read_csv(path, format_):
        yield TableRow(f"line {line}", fields, error)
