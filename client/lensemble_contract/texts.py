"""Texts of callers: checked before they are stored, and quoted in error messages."""

from __future__ import annotations

import json


def check_unicode(text: str) -> None:
    """Checks that a text can be stored, filtered and returned unchanged.

    Raises:
        ValueError: It contains U+0000, at which SQLite's JSON functions and Triton's parameters end
            a text, or an unpaired surrogate, which UTF-8 does not have.
    """
    if "\0" in text:
        raise ValueError("a text with U+0000, which is not allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text with an unpaired surrogate; expected valid Unicode") from None


def quoted(value: object, limit: int = 60) -> str:
    """Returns a value for an error message, in ASCII.

    Args:
        value: Anything. Strings are quoted, other JSON values are not, and what JSON does not have
            is named by its type.
        limit: Number of characters to which the value is cut.
    """
    if isinstance(value, str):
        return ascii(_cut(value, limit))
    try:
        return _cut(json.dumps(value), limit)
    # A value that could just be read may be nested too deeply to be written.
    except (TypeError, ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
