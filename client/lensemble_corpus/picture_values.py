"""The pictures in a field of a row: paths, or encoded pictures that the row itself contains.

Parquet files of picture datasets keep a picture as an object with `bytes` and `path`, or as bytes.
"""

from __future__ import annotations

from typing import Any

from lensemble_corpus.row_content import shown

_OBJECT = {"bytes", "path"}


def pictures_of(value: object) -> tuple[str, ...] | tuple[bytes, ...]:
    """Returns the paths of pictures, or the encoded pictures; empty if there is none.

    Args:
        value: A path, encoded bytes, an object with `bytes`, `path` or both, or a list of these.
            If an object has both, the bytes are the picture.

    Raises:
        ValueError: It is something else, or a list of both paths and encoded pictures.
    """
    pictures = [_picture_of(part) for part in (value if isinstance(value, list) else [value])]
    paths = tuple(picture for picture in pictures if isinstance(picture, str) and picture)
    encoded = tuple(picture for picture in pictures if isinstance(picture, bytes))
    if paths and encoded:
        raise ValueError("paths and encoded pictures in one list; expected only one of both")
    return paths or encoded


def without_bytes(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a row in which a picture field has its paths alone; without the field if none has."""
    value = fields.get(name)
    paths = _paths_of(value)
    if paths is value:
        return fields
    return {
        field: paths if field == name else each
        for field, each in fields.items()
        if field != name or paths is not None
    }


def _picture_of(value: Any) -> str | bytes:
    if _is_object(value):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None:
        return ""
    if not isinstance(value, str | bytes):
        raise ValueError(
            f"{shown(value)}; expected a path, an encoded picture, or a list of one of both"
        )
    return value


def _paths_of(value: Any) -> Any:
    """The value without bytes: objects become their paths, and bytes None."""
    if isinstance(value, bytes):
        return None
    if _is_object(value):
        return value.get("path")
    if isinstance(value, list) and not all(isinstance(part, str) for part in value):
        return [path for part in value if (path := _paths_of(part)) is not None] or None
    return value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= _OBJECT
