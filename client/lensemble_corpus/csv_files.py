"""Reads CSV files: their encoding, their delimiter, long fields, and columns of numbers.

What a file cannot say itself, such as the encoding of a file that is not UTF-8 or the type of a
column, is never guessed: the caller gives it, or the error asks for it.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.text_template import list_fields

# The one that makes most columns of the first line is used; the earlier one if two make as many.
DELIMITERS = (",", ";", "\t", "|")
# Characters of one field. Python's own limit is 131,072, which a long text exceeds. A limit is
# needed, because a quotation mark that is never closed makes one field of the rest of the file.
MAX_FIELD = 16 * 2**20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError("a whole number such as 2019")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise ValueError("a number such as 3.5, with a point")
    return number


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("JSON") from None


# Name of a column's type -> its reader, which raises ValueError with what it expects.
TYPES: dict[str, Callable[[str], Any]] = {
    "text": str,
    "int": _whole_number,
    "float": _number,
    "bool": _truth,
    "json": _json,
}


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a CSV file is to be read.

    Attributes:
        encoding: Name of the encoding; empty for UTF-8. The file's byte order mark, if it has
            one, is used instead.
        delimiter: Character between fields; empty for the one of `DELIMITERS` that fits the first
            line best.
        types: Column -> one of `TYPES`; other columns are texts. In a column of another type than
            text, an empty field becomes None.

    Raises:
        InvalidInputError: The encoding, the delimiter or a type is unknown.
    """

    encoding: str = ""
    delimiter: str = ""
    types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            if self.encoding:
                "".encode(self.encoding)
        except LookupError as error:
            raise InvalidInputError(
                f"{self.encoding!r}; expected a name such as cp1252 or latin-1", field="encoding"
            ) from error
        if len(self.delimiter) > 1 or self.delimiter in ('"', "\r", "\n"):
            raise InvalidInputError(
                f"{self.delimiter!r}; expected one character, such as ';'", field="delimiter"
            )
        for column, name in self.types.items():
            if name not in TYPES:
                raise InvalidInputError(
                    f"{column!r} has {name!r}; expected one of {', '.join(TYPES)}", field="types"
                )


def read_csv(path: Path, format_: CsvFormat) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yields the rows of a file: the line on which a row ends, its fields, and what is wrong.

    Blank lines are left out. The fields of a row that is not valid are empty.

    Raises:
        InvalidInputError: A column that has a type is missing.
        ValueError: The file as a whole is not valid.
        OSError: The file cannot be read.
        csv.Error: A quotation mark is not closed, or a field is too long.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    encoding = _encoding_of(path, format_.encoding)
    with path.open(encoding=encoding, newline="") as file:
        try:
            delimiter, skipped = _delimiter_of(file, format_.delimiter)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = _column_names(next(reader, []), format_)
            try:
                for values in reader:
                    if values:
                        yield reader.line_num + skipped, *_fields(names, values, format_)
            except csv.Error as error:
                raise ValueError(f"line {reader.line_num + skipped}: {error}") from error
        except UnicodeDecodeError as error:
            near = error.object[max(0, error.start - 10) : error.start + 10]
            raise ValueError(
                f"not {encoding.removesuffix('-sig')} near {near.decode('cp1252', 'replace')!r}; "
                "give the encoding of the file (--encoding cp1252 if a Windows program wrote it)"
            ) from error


def _encoding_of(path: Path, given: str) -> str:
    with path.open("rb") as file:
        start = file.read(3)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    return given or "utf-8"


def _delimiter_of(file: IO[str], given: str) -> tuple[str, int]:
    """Returns the delimiter, and the number of lines to skip; the file is at the first row then.

    Excel begins some files with a line such as `sep=;`.
    """
    line = file.readline()
    hint = re.fullmatch(r"sep=(.)", line.rstrip("\r\n"))
    if hint:
        return given or hint[1], 1
    file.seek(0)
    columns = {each: len(next(csv.reader([line], delimiter=each), [])) for each in DELIMITERS}
    return given or max(DELIMITERS, key=columns.__getitem__), 0


def _column_names(names: list[str], format_: CsvFormat) -> list[str]:
    if not names or len(set(names)) < len(names) or "" in names:
        raise ValueError(f"the first line is {names}; expected names of columns, each once")
    for column in format_.types:
        if column not in names:
            raise InvalidInputError(
                f"{column!r}; the file has {list_fields(dict.fromkeys(names))}", field="types"
            )
    return names


def _fields(names: list[str], values: list[str], format_: CsvFormat) -> tuple[dict[str, Any], str]:
    """The fields of a row, and what is wrong with it; empty if nothing is."""
    if len(values) != len(names):
        return {}, f"{len(values)} values; the header has {len(names)}"
    fields: dict[str, Any] = dict(zip(names, values, strict=True))
    for column, type_ in format_.types.items():
        text = fields[column].strip()
        try:
            if type_ != "text":
                fields[column] = TYPES[type_](text) if text else None
        except ValueError as error:
            return {}, f"{column!r} is {text[:60]!r}; expected {error}"
    return fields, ""
