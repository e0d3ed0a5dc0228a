"""Reads the items of a folder: `corpus.jsonl` with one JSON object per line, and pictures.

This is BEIR's layout, extended by pictures. A line looks like this:

    {"_id": "17", "title": "...", "text": "...", "image": "images/17.jpg", ...}

An item has a text, a picture (or a list of pictures), or both. The paths of pictures must lead to
files inside the folder. `title` is put before `text`, as in BEIR, and `instruction` replaces the
profile's instruction. The item's document is the line without `_id` and `instruction`.

In a folder without `corpus.jsonl` each picture is one item. Its id is its path inside the folder.
Its document is the JSON object in `NAME.json` beside `NAME.jpg`, or `{"file": <id>}` if there is no
such file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Item, Record

FILE_NAME = "corpus.jsonl"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_NOT_IN_THE_DOCUMENT = ("_id", "instruction")


@dataclass(frozen=True, slots=True)
class Entry:
    """One item: a line of `corpus.jsonl`, or a picture file.

    Attributes:
        id: The item's id.
        text: Title and text; None if there is neither.
        images: Paths of the pictures.
        instruction: Replaces the profile's instruction; None keeps it.
        document: The item's document.
        encoded: Encoded pictures, if the source contains them itself; `images` is empty then.
    """

    id: str
    text: str | None = None
    images: tuple[Path, ...] = ()
    instruction: str | None = None
    document: dict[str, Any] = field(default_factory=dict)
    encoded: tuple[bytes, ...] = ()

    def item(self) -> Item:
        """Reads the pictures, and returns the item as the client sends it.

        Raises:
            InvalidInputError: A picture cannot be read, or there is neither text nor picture.
        """
        return Item.of(self.text, self.images or self.encoded or None, self.instruction)

    def record(self) -> Record:
        """Reads the pictures, and returns the item as it is stored.

        Raises:
            InvalidInputError: A picture cannot be read, there is neither text nor picture, or an
                index cannot store the id or the document.
        """
        record = Record(self.id, self.item(), self.document)
        record.check()
        return record


def find_entries(folder: Path) -> list[Entry]:
    """Finds the items of a folder: the lines of `corpus.jsonl`, or its pictures without that file.

    Pictures in subfolders are found, too.

    Raises:
        InvalidInputError: There are no items, or a line or the JSON file of a picture is not valid.
    """
    return load_entries(folder) if (folder / FILE_NAME).is_file() else _find_pictures(folder)


def load_entries(folder: Path, name: str = FILE_NAME) -> list[Entry]:
    """Reads `corpus.jsonl`, or another file of the same form.

    Args:
        folder: Folder of the file; the paths of pictures are relative to it.
        name: Name of the file.

    Raises:
        InvalidInputError: The file is missing or empty, or one of its lines is not valid.
    """
    entries: dict[str, Entry] = {}
    for where, line in read_lines(folder / name):
        try:
            entry = _parse_entry(json.loads(line), folder)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{where}: {error}", field=name) from error
        if entry.id in entries:
            raise InvalidInputError(f"{where}: _id {entry.id!r} is not unique", field=name)
        entries[entry.id] = entry
    if not entries:
        raise InvalidInputError(f"{str(folder / name)!r} is empty", field=name)
    return list(entries.values())


def read_strings(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    """Returns the strings in a field that contains a string or a list of strings.

    The result is empty if there is no such field.

    Raises:
        ValueError: The field contains something else.
    """
    value = fields.get(name)
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
        raise ValueError(f"{name!r} is {value!r}; expected a string or a list of strings")
    return tuple(listed)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Reads the lines that are not blank, each with its position, such as `line 3`.

    Args:
        path: File in UTF-8, with or without a byte order mark.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field=path.name) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.strip()


def _parse_entry(fields: Any, folder: Path) -> Entry:
    if not isinstance(fields, dict) or not isinstance(fields.get("_id"), str) or not fields["_id"]:
        raise ValueError('expected an object with a string "_id"')
    for name in ("title", "text", "instruction"):
        if not isinstance(fields.get(name), str | None):
            raise ValueError(f"{name!r} is {fields[name]!r}; expected a string")
    text = " ".join(filter(None, (fields.get("title"), fields.get("text")))) or None
    images = tuple(_inside(folder, image) for image in read_strings(fields, "image"))
    if text is None and not images:
        raise ValueError(f'{fields["_id"]!r} has neither "text" nor "image"')
    document = {key: value for key, value in fields.items() if key not in _NOT_IN_THE_DOCUMENT}
    return Entry(fields["_id"], text, images, fields.get("instruction"), document)


def _inside(folder: Path, name: str) -> Path:
    """Returns the path of a picture, which must be inside the folder.

    Otherwise a corpus from somebody else could make the caller send any file of this machine.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"picture {name!r} is outside the folder")
    return path


def _find_pictures(folder: Path) -> list[Entry]:
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not paths:
        raise InvalidInputError(
            f"no pictures under {str(folder)!r} (looked for {', '.join(ENDINGS)}), and no "
            f"{FILE_NAME} in it",
            field="source",
        )
    return [
        Entry(
            id=path.relative_to(folder).as_posix(),
            images=(path,),
            document=_load_document(path, folder),
        )
        for path in paths
    ]


def _load_document(path: Path, folder: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {"file": path.relative_to(folder).as_posix()}
    try:
        document = json.loads(sidecar.read_text())
        if not isinstance(document, dict):
            raise ValueError("expected a JSON object")
    except ValueError as error:
        raise InvalidInputError(f"{str(sidecar)!r}: {error}", field="source") from error
    return document
