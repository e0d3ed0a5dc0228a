"""Parses JSON exactly, and large texts in steps of a few milliseconds.

While `orjson` parses, no other thread runs, the event loop's included. It parses some 900 MB a
second (a string of 64 MB in 70 ms), and most bytes of a large body are in a few long strings:
pictures as data URLs. So long strings are taken out of the text, the short rest is parsed, and the
strings are put back.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import orjson

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.filters import refuse_constant

# Texts up to this size are parsed in one step.
SMALL_BYTES = 1024 * 1024
# Largest size of a text without its long strings; `orjson` takes some 20 ms for it.
MAX_REST_BYTES = 16 * 1024 * 1024
# Strings of more bytes are taken out of large texts.
LONG_BYTES = 1024

_STEP_BYTES = 1024 * 1024
_BACKSLASH = ord("\\")
_CONTROL = re.compile(rb"[\x00-\x1f]")


def parse_json(content: bytes, long_integer: bytes = b"") -> Any:
    """Parses JSON, and changes no value.

    `orjson` makes floats of integers beyond 64 bits. A small text with such an integer, or one that
    `orjson` refuses, is parsed by Python's own parser, which is slower and accepts more. So such an
    integer or an unpaired surrogate is refused later, by the name of its field.

    Args:
        content: JSON text.
        long_integer: an integer in the text that may have more than 64 bits; empty if there is
            none.

    Raises:
        InvalidInputError: The text is not JSON, or it is large and has such an integer.
    """
    if len(content) > SMALL_BYTES:
        return _parse_large(content, long_integer)
    try:
        if not long_integer:
            return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass  # the other parser may accept it, or has the same reason
    try:
        return json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error


def _parse_large(content: bytes, long_integer: bytes) -> Any:
    if long_integer:
        raise InvalidInputError(
            f"the body has the integer {long_integer[:40].decode()}, which may have more than 64 "
            "bits; send it as a string"
        )
    mark = secrets.token_hex(8)  # unknown to the caller, so no string of the text begins with it
    rest, strings = _take_out(content, mark)
    if len(rest) > MAX_REST_BYTES:
        raise InvalidInputError(
            f"{len(rest)} bytes besides long strings; at most {MAX_REST_BYTES}; send fewer or "
            "smaller items, in several requests"
        )
    try:
        parsed = orjson.loads(rest)
        return _put_back(parsed, {f"{mark}{n}": _decode(raw) for n, raw in enumerate(strings)})
    except orjson.JSONDecodeError as error:
        raise _not_json(error) from error


def _take_out(content: bytes, mark: str) -> tuple[bytes, list[bytes]]:
    """The text with a mark and a number in place of each long string; and these strings, raw."""
    rest: list[bytes] = []
    strings: list[bytes] = []
    kept = 0  # where the part that `rest` lacks begins
    start = content.find(b'"')
    while start >= 0 and (end := _end_of_string(content, start)) >= 0:
        if end - start > LONG_BYTES:
            rest += (content[kept : start + 1], f"{mark}{len(strings)}".encode())
            strings.append(content[start + 1 : end])
            kept = end
        start = content.find(b'"', end + 1)
    rest.append(content[kept:])
    return b"".join(rest), strings


def _end_of_string(content: bytes, start: int) -> int:
    """Position of the quote that ends the string which begins at a quote; -1 if there is none."""
    end = start
    while (end := content.find(b'"', end + 1)) >= 0:
        before = end - 1
        while content[before] == _BACKSLASH:
            before -= 1
        if (end - before) % 2:  # an even number of backslashes does not escape the quote
            return end
    return -1


def _decode(raw: bytes) -> str:
    """The text of a JSON string without its quotes.

    Raises:
        InvalidInputError: The string is so long that it would be decoded in one long step.
        orjson.JSONDecodeError: The string is malformed.
    """
    if raw.isascii() and b"\\" not in raw and not _has_control_characters(raw):
        return raw.decode("ascii")
    if len(raw) > MAX_REST_BYTES:
        raise InvalidInputError(
            f"a string of {len(raw)} bytes with escapes or other letters than ASCII; at most "
            f"{MAX_REST_BYTES}"
        )
    text: str = orjson.loads(b'"' + raw + b'"')
    return text


def _has_control_characters(raw: bytes) -> bool:
    return any(
        _CONTROL.search(raw, start, start + _STEP_BYTES)
        for start in range(0, len(raw), _STEP_BYTES)
    )


def _put_back(parsed: Any, strings: dict[str, str]) -> Any:
    """The parsed value with the strings in place of their marks; keys of objects, too."""
    root = [parsed]
    waiting: list[Any] = [root]
    while strings and waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            if not strings.keys().isdisjoint(container):
                entries = [(strings.get(key, key), value) for key, value in container.items()]
                container.clear()
                container.update(entries)
            places: Any = container.items()
        else:
            places = enumerate(container)
        for place, value in [*places]:
            if isinstance(value, str):
                container[place] = strings.get(value, value)
            elif isinstance(value, list | dict):
                waiting.append(value)
    return root[0]


def _not_json(error: Exception) -> InvalidInputError:
    return InvalidInputError(f"the body is not JSON: {error}")
