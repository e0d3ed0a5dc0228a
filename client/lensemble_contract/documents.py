"""Documents: the JSON objects that are stored with items.

There is one rule for them, and every way into an index applies it: the clients, the gateway,
Triton's protocols, `ingest`, `corpus index` and `index build`. So a document is refused everywhere
or nowhere, and every way out returns what was accepted:

- at most `MAX_DOCUMENT_BYTES` bytes of compact JSON in UTF-8, without spaces between values;
- at most `MAX_DOCUMENT_DEPTH` levels of objects and lists. An answer of the gateway adds six
  levels, and JSON parsers of other languages read 64 (.NET) or 100 (Ruby) by default;
- whole numbers of 64 bits, as SQLite has them, and other numbers that are finite;
- texts and names in valid Unicode without U+0000, at which SQLite's JSON functions end a text: a
  filter for `acme` would also find `acme`, U+0000, `x`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.filters import refuse_constant
from lensemble_contract.texts import check_unicode, quoted

MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DOCUMENT_DEPTH = 50
# Longest JSON text that is read. Escapes take up to six bytes for one (`\u0061` is `a`), and there
# may be spaces; a longer text is refused before it is parsed.
MAX_JSON_BYTES = 8 * MAX_DOCUMENT_BYTES
# A digest that begins with this was made of what the vector depends on, without the document.
CONTENT_DIGEST = "content:"
_INT64 = 2**63


class _RefusedValueError(Exception):
    """A value that a document cannot have.

    Attributes:
        reason: What is wrong with it.
        path: Names and positions that lead to the value, from the outermost.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str | int] = []


def document_text(document: object) -> str:
    """Checks a document, and returns the JSON text in which it is sent and stored.

    Args:
        document: A mapping whose values are those of JSON; tuples are written as lists.

    Returns:
        JSON text without escaped letters. SQLite does not find a field whose name has escaped
        letters.

    Raises:
        InvalidInputError: The document breaks a rule of this module; the message names the place.
    """
    if not isinstance(document, Mapping):
        raise _invalid(f"{quoted(document)}; expected a JSON object")
    fields = dict(document)
    try:
        _check_value(fields, 1)
    except _RefusedValueError as error:
        place = f"the value at {quoted(_joined(error.path))} is " if error.path else ""
        raise _invalid(f"{place}{error.reason}") from None
    text = _ENCODER.encode(fields)
    # The stored text has spaces, which do not count. Most documents are small enough with them.
    if len(text) * 4 > MAX_DOCUMENT_BYTES and len(text.encode()) > MAX_DOCUMENT_BYTES:
        size = len(_COMPACT_ENCODER.encode(fields).encode())
        if size > MAX_DOCUMENT_BYTES:
            raise _invalid(
                f"{size} bytes as compact JSON; expected at most {MAX_DOCUMENT_BYTES}: keep large "
                "texts elsewhere, and their address in the document"
            )
    return text


def parse_document(text: str | bytes) -> dict[str, Any]:
    """Reads a document from JSON text, and checks it.

    Raises:
        InvalidInputError: The text is not JSON, or the document breaks a rule of this module.
    """
    fields: Any = _decoded(text)
    document_text(fields)
    checked: dict[str, Any] = fields
    return checked


def normalized_document(text: str | bytes) -> str:
    """Reads a document from JSON text; returns the text in which it is stored.

    Raises:
        InvalidInputError: The text is not JSON, or the document breaks a rule of this module.
    """
    return document_text(_decoded(text))


def merge_patch(document: Any, patch: Any) -> Any:
    """Applies a JSON merge patch (RFC 7396); neither argument is changed.

    Args:
        document: Any JSON value.
        patch: An object whose fields replace those of the document, where null removes a field and
            objects are merged; or any other value, which replaces the document.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def digest_after_document_change(digest: str) -> str:
    """Returns the digest of an item whose document was changed alone.

    Most digests cover the document, too (`Record.digest`). Such a digest becomes empty, so that
    whoever stores the original item again does not take it for stored already.
    """
    return digest if digest.startswith(CONTENT_DIGEST) else ""


def _decoded(text: str | bytes) -> Any:
    if len(text) > MAX_JSON_BYTES:
        raise _invalid(
            f"JSON text of {len(text)} bytes; expected at most {MAX_JSON_BYTES}, and "
            f"{MAX_DOCUMENT_BYTES} as compact JSON"
        )
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise _invalid(f"not valid UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise _invalid(f"{quoted(text)} is not JSON: {error}") from error
    except RecursionError as error:
        raise _invalid(_TOO_DEEP) from error


def _check_value(value: object, depth: int) -> None:
    """Checks a value of a document; `depth` is the number of objects and lists around it, plus 1.

    Raises:
        _RefusedValueError: The value is not allowed.
    """
    if isinstance(value, str):
        _check_text(value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise _RefusedValueError(
                "a whole number of more than 64 bits; send it as a text, or as a number with a "
                "fraction"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _RefusedValueError(f"{value}, which JSON does not have; send null")
    elif isinstance(value, dict | list | tuple):
        if depth > MAX_DOCUMENT_DEPTH:
            raise _RefusedValueError(_TOO_DEEP)
        _check_parts(value, depth)
    else:
        raise _RefusedValueError(f"of type {type(value).__name__}, which JSON does not have")


def _check_parts(container: Any, depth: int) -> None:
    """Checks the names and values of an object, or the values of a list."""
    is_object = isinstance(container, dict)
    parts: Iterable[tuple[Any, Any]] = container.items() if is_object else enumerate(container)
    for key, part in parts:
        try:
            if is_object and not isinstance(key, str):
                raise _RefusedValueError("under a name that is not a text; expected a text")
            if is_object:
                _check_text(key)
            _check_value(part, depth + 1)
        except _RefusedValueError as error:
            error.path.insert(0, str(key) if is_object else key)
            raise


def _check_text(text: str) -> None:
    try:
        check_unicode(text)
    except ValueError as error:
        raise _RefusedValueError(str(error)) from None


def _joined(path: list[str | int]) -> str:
    """The place of a value, such as `damage.parts[2]`."""
    place = ""
    for part in path:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    return place


def _invalid(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="document")


_TOO_DEEP = f"nested more than {MAX_DOCUMENT_DEPTH} levels deep; expected a flatter document"
# Built once: `json.loads` and `json.dumps` build a new codec on every call that has options.
# SQLite's JSON has no NaN and Infinity; a document with such a value would make every filter fail.
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_COMPACT_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
