"""Texts of callers: checked before they are stored, and quoted in error messages."""

from __future__ import annotations

import json

_MAX_QUOTED_CHARACTERS = 60


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


def quoted(value: object) -> str:
    """Returns a value for an error message, in ASCII and cut to 60 characters.

    Args:
        value: Anything. Strings are quoted, other JSON values are not, and what JSON does not have
            is named by its type.
    """
    if isinstance(value, str):
        return ascii(_cut(value))
    try:
        return _cut(json.dumps(value))
    # A value that could just be read may be nested too deeply to be written.
    except (TypeError, ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def _cut(text: str) -> str:
    if len(text) <= _MAX_QUOTED_CHARACTERS:
        return text
    return f"{text[:_MAX_QUOTED_CHARACTERS]}..."
