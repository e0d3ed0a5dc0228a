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
from lensemble_corpus.text_template import list_fields

# Up to this many bytes, such as those of a hash, are written as hexadecimal digits.
_MAX_HEX_BYTES = 64


def document_text(fields: Mapping[str, Any]) -> str:
    """Returns a row as JSON text.

    NaN and infinity become null. Values of types that JSON does not have become strings: bytes
    become hexadecimal digits, or, if there are more than 64, their number.

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


def shown(value: object) -> str:
    """Returns a value for a message: quoted, short, and never the content of bytes."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return f"an object with {list_fields(value)[:60]}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def digest_of(entry: Entry, base: Path) -> bytes:
    """Returns a digest of an item, 16 bytes. If it changes, the item must be embedded again.

    It covers the text, the instruction, and for each picture its path, its size and the time of its
    last change. Files are not read. Of a picture that the row itself contains, it covers the bytes.

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
    parts += [["encoded", hashlib.blake2b(image).hexdigest()] for image in entry.encoded]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def _as_json_value(value: object) -> object:
    """Returns a value in which everything that JSON does not have is replaced."""
    if isinstance(value, Mapping):
        return {str(name): _as_json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_value(part) for part in value]
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _MAX_HEX_BYTES else f"{len(value)} bytes"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)
