"""Items on disk: one JSON object per line, pictures beside it (BEIR's layout, with pictures).

    {"_id": "17", "title": "...", "text": "...", "image": "images/17.jpg", ...}

An item has a text, a picture (or a list of them), or both; pictures' paths are inside the folder.
`title` is put before `text`, as BEIR does, and `instruction` replaces the profile's. The line
without `_id` and `instruction` is the item's document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensemble_client.errors import InvalidInputError
from lensemble_client.items import Item

FILE_NAME = "corpus.jsonl"

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
