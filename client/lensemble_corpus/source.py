"""Reads the rows that `lensemble corpus embed` embeds from a table file or a folder.

A JSON file, for example, looks like this:

    [{"crop_path": "crops/17.jpg", "damage_type": "dent", ...}, ...]

Paths of pictures are relative to the file. Pictures are read only when they are embedded. A row
that cannot be embedded is returned as `RefusedRow`, and the rows after it follow. If the file as a
whole is not valid, an error is raised before the first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.csv_files import CsvFormat
from lensemble_corpus.entries import Entry, find_entries
from lensemble_corpus.picture_values import pictures_of, without_bytes
from lensemble_corpus.row_content import digest_of, document_text, shown
from lensemble_corpus.table_files import TableRow, open_table
from lensemble_corpus.text_template import TextTemplate, list_fields

# Usual names of the field with a picture's path. If the caller names no field, the first of these
# that the first row has is used.
IMAGE_FIELDS = ("crop_path", "image", "image_path", "path", "file")
# Field that is added to each row in the output: the number of its vector, from 0.
VECTOR_NUMBER_FIELD = "embedding_index"
# Field with the id. Rows of a folder always have it; rows of a file may have it.
ID_FIELD = "_id"


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be embedded.

    Attributes:
        where: Its position in the source, such as `line 3`.
        id: Id of the item; empty if it is not known.
        error: What is wrong with the row.
    """

    where: str
    id: str
    error: InvalidInputError


@dataclass(frozen=True, slots=True)
class EmbeddableRow:
    """A row that can be embedded.

    Attributes:
        where: Its position in the source, such as `line 3`.
        entry: The item; its document is the whole row.
        digest: Digest of everything that the vector depends on, 16 bytes (`row_content.digest_of`).
        json_text: The row as JSON (`row_content.document_text`). If the row has an
            `embedding_index` from an earlier output, it is left out.
    """

    where: str
    entry: Entry
    digest: bytes
    json_text: str


class Source:
    """The rows of a file or a folder. They can be iterated repeatedly.

    Args:
        path: `.json` (a list of objects), `.jsonl`, `.csv`, `.parquet`; or a folder, as
            `entries.find_entries` reads it.
        image_field: Field with a row's pictures, as `picture_values.pictures_of` reads it; None
            looks for one of `IMAGE_FIELDS`, and an empty name means that rows have no pictures.
        id_field: Field with a row's id; None takes `_id`, or the picture's path. With an empty
            name, the row's number becomes its id, and the document gets it as `_id`.
        text: Template of the text; None embeds the pictures alone, or the texts in a folder's
            `corpus.jsonl`.
        instruction: Replaces the profile's instruction in rows that have none of their own.
        csv_format: How a CSV file is to be read; None for the usual way, and for other files.

    Attributes:
        name: Name of the file or folder, without the folders above it.
        id_field: Field with the id in a row's document.
        total: Number of rows.

    Raises:
        InvalidInputError: The source cannot be read, is empty, or its first row lacks a field.
        ImportError: PyArrow is needed and not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        image_field: str | None = None,
        id_field: str | None = None,
        text: str | None = None,
        instruction: str | None = None,
        csv_format: CsvFormat | None = None,
    ) -> None:
        self._template = TextTemplate(text) if text is not None else None
        self._instruction = instruction or None
        self.name = path.resolve().name
        self.id_field: str = ID_FIELD
        self._entries: list[Entry] | None = None
        self._image_field, self._numbers_rows = "", False
        if path.is_dir():
            _refuse_options_of_files(path, image_field, id_field, csv_format)
            self._base = path
            self._entries = find_entries(path)
            self.total = len(self._entries)
            first_row = _row_of(self._entries[0])
        else:
            self._base = path.parent
            self._read_rows, self.total = open_table(path, csv_format)
            first_row = next((row.fields for row in self._read_rows() if not row.error), {})
            if not first_row:
                raise InvalidInputError(f"{str(path)!r} has no row to embed", field="source")
            has_text = self._template is not None
            self._image_field = _choose_image_field(first_row, image_field, has_text)
            self._numbers_rows = id_field == ""
            first_row = self._document_of(first_row, 1)
            if not self._numbers_rows:
                self.id_field = _choose_id_field(first_row, id_field, self._image_field)
        if self._template is not None:
            self._template.fill_in(first_row)

    def __iter__(self) -> Iterator[EmbeddableRow | RefusedRow]:
        if self._entries is not None:
            for number, entry in enumerate(self._entries, start=1):
                yield self._convert(TableRow(f"item {number}", _row_of(entry)), entry)
        else:
            for number, row in enumerate(self._read_rows(), start=1):
                yield self._convert(row, number=number)

    def _convert(
        self, row: TableRow, entry: Entry | None = None, number: int = 0
    ) -> EmbeddableRow | RefusedRow:
        """Converts a row to an item.

        Args:
            row: The row.
            entry: The item, if the source is a folder.
            number: The row's number in a file, from 1.
        """
        fields = row.fields if entry is not None else self._document_of(row.fields, number)
        id_ = entry.id if entry is not None else _id_text(fields.get(self.id_field))
        try:
            if row.error:
                raise InvalidInputError(row.error)
            json_text = document_text(fields)
            if entry is None:
                entry = self._make_entry(fields, id_, row.fields.get(self._image_field))
            else:
                entry = replace(entry, document=fields)
            if self._template is not None:
                entry = replace(entry, text=self._template.fill_in(fields) or None)
            if entry.text is None and not entry.images and not entry.encoded:
                raise InvalidInputError("the row has neither a text nor a picture")
            if self._instruction and not entry.instruction:
                entry = replace(entry, instruction=self._instruction)
            return EmbeddableRow(row.where, entry, digest_of(entry, self._base), json_text)
        except InvalidInputError as error:
            return RefusedRow(row.where, id_, error)

    def _document_of(self, fields: dict[str, Any], number: int) -> dict[str, Any]:
        """The fields of a file's row as its document keeps them: without encoded pictures."""
        fields = without_bytes(fields, self._image_field)
        if VECTOR_NUMBER_FIELD in fields:
            fields = {name: each for name, each in fields.items() if name != VECTOR_NUMBER_FIELD}
        return {**fields, ID_FIELD: str(number)} if self._numbers_rows else fields

    def _make_entry(self, fields: dict[str, Any], id_: str, picture: object) -> Entry:
        if not id_:
            raise InvalidInputError(
                f"{shown(fields.get(self.id_field))}; expected a text or a number",
                field=self.id_field,
            )
        try:
            pictures = pictures_of(picture) if self._image_field else ()
        except ValueError as error:
            raise InvalidInputError(f"{self._image_field!r} is {error}") from error
        images = tuple(self._base / path for path in pictures if isinstance(path, str))
        encoded = tuple(content for content in pictures if isinstance(content, bytes))
        return Entry(id_, images=images, document=fields, encoded=encoded)


def check_picture_sizes(entry: Entry) -> None:
    """Refuses an item with a picture that is too large for the server, without reading it.

    Raises:
        InvalidInputError: A picture has too many bytes.
    """
    for number, path in enumerate(entry.images):
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # reading the picture will report the reason
            continue
        _check_size(size, number)
    for number, content in enumerate(entry.encoded):
        _check_size(len(content), number)


def _check_size(size: int, number: int) -> None:
    if size > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{size} bytes; at most {contract.MAX_IMAGE_BYTES}", field=f"image[{number}]"
        )


def _refuse_options_of_files(
    path: Path, image_field: str | None, id_field: str | None, csv_format: CsvFormat | None
) -> None:
    options = {"image_field": image_field, "id_field": id_field, "source": csv_format}
    for name, value in options.items():
        if value is not None:
            raise InvalidInputError(
                f"{str(path)!r} is a folder, which determines pictures and ids itself; leave the "
                "option out, or give a file of rows",
                field=name,
            )


def _row_of(entry: Entry) -> dict[str, Any]:
    """Returns the row for an item of a folder: its document and its id."""
    return {ID_FIELD: entry.id, **entry.document}


def _choose_image_field(row: Mapping[str, Any], name: str | None, has_text: bool) -> str:
    """Returns the field with the picture's path: the given one, or a usual one in the first row."""
    if name is not None:
        if name and name not in row:
            raise InvalidInputError(
                f"{name!r}; the first row has {list_fields(row)}", field="image_field"
            )
        return name
    usual = next((field for field in IMAGE_FIELDS if field in row), "")
    if not usual and not has_text:
        raise InvalidInputError(
            f"none of {', '.join(IMAGE_FIELDS)} is in the first row, which has "
            f"{list_fields(row)}; name the field with the picture's path (--image-field), or give "
            "a text to embed (--text)",
            field="image_field",
        )
    return usual


def _choose_id_field(row: Mapping[str, Any], name: str | None, image_field: str) -> str:
    """Returns the field with the id: the given one, or a usual one in the first row."""
    candidates = [name] if name is not None else [ID_FIELD, image_field, "id"]
    chosen = next((field for field in candidates if field and field in row), None)
    if chosen is None:
        reason = repr(name) if name is not None else "the first row has no picture, `_id` or `id`"
        raise InvalidInputError(
            f"{reason}; name a field that identifies a row (--id-field), or take the numbers of "
            f"the rows (--id-field ''); the first row has {list_fields(row)}",
            field="id_field",
        )
    return chosen


def _id_text(value: object) -> str:
    """Returns an id as text; empty if the value cannot be an id."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
