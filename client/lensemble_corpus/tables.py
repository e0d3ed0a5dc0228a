"""Rows of a table -> what is embedded: JSON, JSON Lines, CSV, Parquet, or a folder.

    [{"crop_path": "crops/17.jpg", "damage_type": "dent", ...}, ...]

Rows are read as they are asked for (a JSON list is read whole), pictures when they are embedded.
Pictures' paths are relative to the file. A row that is wrong is given as `Refused`, and the others
go on; what is wrong with the file as a whole is an error before the first row.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.entries import Entry, find_entries, strings

IMAGE_FIELDS = ("crop_path", "image", "image_path", "path", "file")
"""Where a picture's path is looked for, if nobody says; the first that the first row has."""
INDEX_FIELD = "embedding_index"
"""Field that the rows get beside their vectors."""
ID = "_id"
"""Field of the id in the rows of a folder, and wherever it is there."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        where: Of the file, such as `line 3`.
        fields: By name.
        error: What is wrong with the row; empty if nothing is.
    """

    where: str
    fields: dict[str, Any]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be embedded.

    Attributes:
        where: Of the source, such as `line 3`.
        id: Of the item; empty if not known.
        error: What is wrong with it.
    """

    where: str
    id: str
    error: InvalidInputError


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row that is to be embedded.

    Attributes:
        where: Of the source, such as `line 3`.
        entry: What is embedded; its document is the whole row.
        digest: Of what the vector depends on, 16 bytes (`digest_of`).
        text: The row as JSON (`document_text`), without an `embedding_index` from before.
    """

    where: str
    entry: Entry
    digest: bytes
    text: str


class Template:
    """A text with names of fields in braces, such as `{damage_type} on {part}`.

    Nothing else may stand in braces: no attribute, index, conversion or format. `{{` is a brace.

    Args:
        text: The template.

    Raises:
        InvalidInputError: It is no such text.
    """

    def __init__(self, text: str) -> None:
        try:
            self._parts = [*Formatter().parse(text)]
        except ValueError as error:
            raise InvalidInputError(f"{text!r}: {error}", field="text") from error
        for _, name, form, conversion in self._parts:
            if name is not None and (not name or set(name) & set(".[]") or form or conversion):
                raise InvalidInputError(
                    f"{text!r}: in braces only the name of a field, such as {{damage_type}}",
                    field="text",
                )
        self.fields = {name for _, name, _, _ in self._parts if name is not None}

    def of(self, fields: Mapping[str, Any]) -> str:
        """The text for a row; what is null there is empty.

        Raises:
            InvalidInputError: The row lacks a field.
        """
        for name in sorted(self.fields - fields.keys()):
            raise InvalidInputError(
                f"the template names {name!r}; the row has {_listed(fields)}", field="text"
            )
        values = {name: "" if fields[name] is None else str(fields[name]) for name in self.fields}
        return "".join(
            literal + ("" if name is None else values[name]) for literal, name, _, _ in self._parts
        )


class Source:
    """What a file or a folder says is to be embedded; may be gone through more than once.

    Args:
        path: `.json` (a list of objects), `.jsonl`, `.csv`, `.parquet`; or a folder, as
            `corpus.find_entries` takes it.
        image_field: Where a row has its picture's path, or a list of them; looked for if None, and
            empty for texts alone.
        id_field: Where a row has its id; `_id`, or the picture's path if None.
        text: Template of the text (`Template`); None embeds pictures alone, or the text that a
            folder's `corpus.jsonl` has.
        instruction: Replaces the profile's, where a row has none of its own.

    Attributes:
        id_field: Where a row's document has the id.
        total: How many rows there are.

    Raises:
        InvalidInputError: It cannot be read, is empty, or its first row has no such fields.
        ImportError: PyArrow is needed, and not there.
    """

    def __init__(
        self,
        path: Path,
        *,
        image_field: str | None = None,
        id_field: str | None = None,
        text: str | None = None,
        instruction: str | None = None,
    ) -> None:
        self._template = Template(text) if text is not None else None
        self._instruction = instruction or None
        self.id_field: str = ID
        self._entries: list[Entry] | None = None
        if path.is_dir():
            if image_field is not None or id_field is not None:
                raise InvalidInputError(
                    f"{str(path)!r} is a folder, and says itself which pictures and ids there are; "
                    "give a file of rows",
                    field="image_field" if image_field is not None else "id_field",
                )
            self.base = path
            self._entries = find_entries(path)
            self.total = len(self._entries)
            first = _whole(self._entries[0])
        else:
            self.base = path.parent
            self._rows, self.total = _reader(path)
            good = next((row.fields for row in self._rows() if not row.error), None)
            if good is None:
                raise InvalidInputError(f"{str(path)!r} has no row to embed", field="source")
            first = good
            self._image_field = _image_field(first, image_field, self._template is not None)
            self.id_field = _id_field(first, id_field, self._image_field)
        if self._template is not None:
            self._template.of(first)

    def __iter__(self) -> Iterator[Wanted | Refused]:
        if self._entries is not None:
            for number, entry in enumerate(self._entries, start=1):
                yield self._checked(Row(f"item {number}", _whole(entry)), entry)
        else:
            for row in self._rows():
                yield self._checked(row)

    def _checked(self, row: Row, entry: Entry | None = None) -> Wanted | Refused:
        fields = row.fields
        id_ = entry.id if entry is not None else _text_of(fields.get(self.id_field))
        try:
            if row.error:
                raise InvalidInputError(row.error)
            if INDEX_FIELD in fields:
                fields = {name: one for name, one in fields.items() if name != INDEX_FIELD}
            text = document_text(fields)
            entry = self._entry(fields, id_) if entry is None else replace(entry, document=fields)
            if self._template is not None:
                entry = replace(entry, text=self._template.of(fields) or None)
            if entry.text is None and not entry.images:
                raise InvalidInputError("the row has neither a text nor a picture")
            if self._instruction and not entry.instruction:
                entry = replace(entry, instruction=self._instruction)
            return Wanted(row.where, entry, digest_of(entry, self.base), text)
        except InvalidInputError as error:
            return Refused(row.where, id_, error)

    def _entry(self, fields: dict[str, Any], id_: str) -> Entry:
        if not id_:
            raise InvalidInputError(
                f"{fields.get(self.id_field)!r}; expected a text or a number", field=self.id_field
            )
        names: tuple[str, ...] = ()
        if self._image_field:
            try:
                names = strings(fields, self._image_field)
            except ValueError as error:
                raise InvalidInputError(str(error)) from error
        images = tuple(self.base / name for name in names if name)
        return Entry(id_, images=images, document=fields)


def document_text(fields: Mapping[str, Any]) -> str:
    """A row as JSON: a number that is none becomes null, and what JSON does not know a text.

    Raises:
        InvalidInputError: A text in it is not valid Unicode.
    """
    try:
        said = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        said = json.dumps(_plain(fields), ensure_ascii=False)
    try:
        said.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a text in the row is not valid Unicode") from error
    return said


def digest_of(entry: Entry, base: Path) -> bytes:
    """16 bytes that tell whether a vector has to be made again.

    Text, instruction, and of each picture path, size and time of its last change: pictures are not
    read for it.

    Args:
        entry: What is embedded.
        base: Folder that the pictures' paths are relative to.
    """
    parts: list[Any] = [entry.text, entry.instruction]
    for path in entry.images:
        try:
            found = path.stat()
            stamp = [found.st_size, found.st_mtime_ns]
        except (OSError, ValueError):  # a zero in the path
            stamp = []
        parts.append([os.path.relpath(path, base), *stamp])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def check_size(entry: Entry) -> None:
    """Refuses a picture that the server would refuse, before it is read.

    Raises:
        InvalidInputError: It has too many bytes.
    """
    for n, path in enumerate(entry.images):
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # reading it will say what is wrong
            continue
        if size > contract.MAX_IMAGE_BYTES:
            raise InvalidInputError(
                f"{size} bytes; at most {contract.MAX_IMAGE_BYTES}", field=f"image[{n}]"
            )


def _whole(entry: Entry) -> dict[str, Any]:
    """The row of a folder's item: its document, with the id."""
    return {ID: entry.id, **entry.document}


def _image_field(first: Mapping[str, Any], given: str | None, has_text: bool) -> str:
    if given is not None:
        if given and given not in first:
            raise InvalidInputError(
                f"{given!r}; the first row has {_listed(first)}", field="image_field"
            )
        return given
    found = next((name for name in IMAGE_FIELDS if name in first), "")
    if not found and not has_text:
        raise InvalidInputError(
            f"none of {', '.join(IMAGE_FIELDS)} is in the first row, which has {_listed(first)}; "
            "say which holds the picture's path (--image-field), or what text to embed (--text)",
            field="image_field",
        )
    return found


def _id_field(first: Mapping[str, Any], given: str | None, image_field: str) -> str:
    candidates = [given] if given is not None else [ID, image_field, "id"]
    found = next((name for name in candidates if name and name in first), None)
    if found is None:
        said = repr(given) if given is not None else "no row has a picture, `_id` or `id`"
        raise InvalidInputError(
            f"{said}; say which field tells rows apart (--id-field): the first has "
            f"{_listed(first)}",
            field="id_field",
        )
    return found


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, fields)) or "no fields"


def _text_of(value: object) -> str:
    """An id as text; empty if it is none."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _plain(value: object) -> object:
    """A value with nothing in it that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)


def _reader(path: Path) -> tuple[Callable[[], Iterator[Row]], int]:
    """What reads a file's rows, from the beginning whenever it is called; and how many there are.

    Counting them finds what is wrong with the file as a whole.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        from lensemble_corpus import parquet

        return lambda: _parquet(parquet.rows(path)), parquet.count(path)
    if kind == ".json":
        rows = _json(path)
        return lambda: iter(rows), len(rows)
    if kind in (".jsonl", ".ndjson"):
        return lambda: _guarded(path, _json_lines), _count(_guarded(path, _lines))
    if kind == ".csv":
        return lambda: _guarded(path, _csv), _count(_guarded(path, _csv))
    raise InvalidInputError(
        f"{str(path)!r}; expected .json, .jsonl, .csv, .parquet, or a folder", field="source"
    )


def _guarded(path: Path, read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
    """What is read; what is wrong with the file, as an error that names it."""
    try:
        yield from read(path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def _json(path: Path) -> list[Row]:
    try:
        said = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error
    if not isinstance(said, list):
        raise InvalidInputError(
            f"{str(path)!r} holds a JSON {type(said).__name__}; expected a list of objects",
            field="source",
        )
    return [_object(f"row {number}", one) for number, one in enumerate(said, start=1)]


def _parquet(found: Iterator[dict[str, Any]]) -> Iterator[Row]:
    return (Row(f"row {number}", fields) for number, fields in enumerate(found, start=1))


def _count(found: Iterator[object]) -> int:
    return sum(1 for _ in found)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from ((n, line) for n, line in enumerate(file, start=1) if not line.isspace())


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        where = f"line {number}"
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(where, {}, f"not JSON: {error}")
        else:
            yield _object(where, said)


def _object(where: str, said: object) -> Row:
    if isinstance(said, dict):
        return Row(where, said)
    return Row(where, {}, f"a JSON {type(said).__name__}; expected an object")


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        names = next(reader, [])
        if not names or len(set(names)) < len(names) or "" in names:
            raise ValueError(f"the first line is {names}; expected names of columns, each once")
        try:
            for values in reader:
                where = f"line {reader.line_num}"
                if len(values) == len(names):
                    yield Row(where, dict(zip(names, values, strict=True)))
                elif values:
                    yield Row(where, {}, f"{len(values)} values; the header has {len(names)}")
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
