"""The content of a row: as JSON text, and as a digest that tells whether it has changed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from lensemble_contract.errors import InvalidInputError
from lensemble_corpus.entries import Entry


def document_text(fields: Mapping[str, Any]) -> str:
    """Returns a row as JSON text.

    NaN and infinity become null. Values of types that JSON does not have become strings.

    Raises:
        InvalidInputError: A text in the row is not valid Unicode.
    """
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(_as_json_value(fields), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a text in the row is not valid Unicode") from error
    return text


def digest_of(entry: Entry, base: Path) -> bytes:
    """Returns a digest of an item, 16 bytes. If it changes, the item must be embedded again.

    It covers the text, the instruction, and for each picture its path, its size and the time of its
    last change. Pictures are not read.

    Args:
        entry: The item.
        base: Folder to which the paths of pictures are relative.
    """
    parts: list[Any] = [entry.text, entry.instruction]
    for path in entry.images:
        try:
            status = path.stat()
            version = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # missing, or a null character in the path
            version = []
        parts.append([os.path.relpath(path, base), *version])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def _as_json_value(value: object) -> object:
    """Returns a value in which everything that JSON does not have is replaced."""
    if isinstance(value, Mapping):
        return {str(name): _as_json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_value(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)
