"""Items on disk: one JSON object per line, pictures beside it (BEIR's layout, with pictures).

    {"_id": "17", "title": "...", "text": "...", "image": "images/17.jpg", ...}

An item has a text, a picture (or a list of them), or both; pictures' paths are inside the folder.
`title` is put before `text`, as BEIR does, and `instruction` replaces the profile's. The line
without `_id` and `instruction` is the item's document.

In a folder without `corpus.jsonl` each picture is one item: its id is its path inside the folder;
its document is the JSON object in the file of the same name with `.json` in place of the picture's
ending, or `{"file": <id>}`.
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
    """One line.

    Attributes:
        id: `_id`.
        text: Title and text; None if there is neither.
        images: Paths of the pictures.
        instruction: Replaces the profile's instruction; None keeps it.
        document: The line, without `_id` and `instruction`.
    """

    id: str
    text: str | None = None
    images: tuple[Path, ...] = ()
    instruction: str | None = None
    document: dict[str, Any] = field(default_factory=dict)

    def item(self) -> Item:
        """What is sent to the server.

        Raises:
            InvalidInputError: A picture cannot be read, or there is neither text nor picture.
        """
        return Item.of(self.text, self.images or None, self.instruction)

    def record(self) -> Record:
        """What is stored.

        Raises:
            InvalidInputError: A picture cannot be read, or there is neither text nor picture.
        """
        return Record(self.id, self.item(), self.document)


def find_entries(folder: Path) -> list[Entry]:
    """The items of a folder: those of its `corpus.jsonl`, or its pictures, in subfolders too.

    Raises:
        InvalidInputError: There are none, or a line or a description is wrong.
    """
    return load_entries(folder) if (folder / FILE_NAME).is_file() else _pictures(folder)


def load_entries(folder: Path, name: str = FILE_NAME) -> list[Entry]:
    """Reads `corpus.jsonl`, or another file of such lines.

    Args:
        folder: Of the file; pictures' paths are relative to it.
        name: Of the file.

    Raises:
        InvalidInputError: The file is missing or empty, or a line of it is wrong.
    """
    entries: dict[str, Entry] = {}
    for where, line in lines(folder / name):
        try:
            entry = _entry(json.loads(line), folder)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{where}: {error}", field=name) from error
        if entry.id in entries:
            raise InvalidInputError(f"{where}: _id {entry.id!r} stands there twice", field=name)
        entries[entry.id] = entry
    if not entries:
        raise InvalidInputError(f"{str(folder / name)!r} is empty", field=name)
    return list(entries.values())


def strings(said: dict[str, Any], name: str) -> tuple[str, ...]:
    """A field that is a string or a list of strings; empty if it is not there.

    Raises:
        ValueError: It is something else.
    """
    value = said.get(name)
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{name!r} is {value!r}; expected a string or a list of strings")
    return tuple(listed)


def _entry(said: Any, folder: Path) -> Entry:
    if not isinstance(said, dict) or not isinstance(said.get("_id"), str) or not said["_id"]:
        raise ValueError('expected an object with a string "_id"')
    for name in ("title", "text", "instruction"):
        if not isinstance(said.get(name), str | None):
            raise ValueError(f"{name!r} is {said[name]!r}; expected a string")
    text = " ".join(filter(None, (said.get("title"), said.get("text")))) or None
    images = tuple(_inside(folder, image) for image in strings(said, "image"))
    if text is None and not images:
        raise ValueError(f'{said["_id"]!r} has neither "text" nor "image"')
    document = {key: value for key, value in said.items() if key not in _NOT_IN_THE_DOCUMENT}
    return Entry(said["_id"], text, images, said.get("instruction"), document)


def _inside(folder: Path, name: str) -> Path:
    """A picture's path; a corpus from elsewhere must not reach other files."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"picture {name!r} is outside the folder")
    return path


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, each with where it stands.

    Args:
        path: UTF-8, with or without a byte order mark.

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


def _pictures(folder: Path) -> list[Entry]:
    """Every picture under a folder, as an item."""
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
            id=path.relative_to(folder).as_posix(), images=(path,), document=_document(path, folder)
        )
        for path in paths
    ]


def _document(path: Path, folder: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {"file": path.relative_to(folder).as_posix()}
    try:
        document = json.loads(sidecar.read_text())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InvalidInputError(f"{str(sidecar)!r}: {error}", field="source") from error
    return document
