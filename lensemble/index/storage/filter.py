"""Conditions on documents: JSON in MongoDB's manner -> SQL with parameters.

    {"brand": "seat", "year": {"$gte": 2015, "$lt": 2020}, "$or": [{"door": true}, ...]}

The words are those of MongoDB, which Pinecone, Chroma and LangChain use too. Field names pass a
whitelist and values are bound as parameters, so a filter cannot say anything but a condition. The
meaning is strict: a condition on a missing field, or on a value of another type, is false, and
`$ne`, `$nin` and `$not` are true exactly where the condition itself is not.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from lensemble_contract.errors import InvalidInputError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 1000
"""In one `$in`."""

_KEY = re.compile(
    r"[^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]$][^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]]*"
)
_MAX_NAME = 256
_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_ORDER, "$exists", "$contains", "$not")
_INT64 = 2**63

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked condition.

    Attributes:
        sql: A boolean expression over the column `document`; true, false or NULL, which is false.
        parameters: What its question marks stand for.
    """

    sql: str
    parameters: tuple[str | int | float, ...]

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Reads a filter.

        Args:
            text: JSON object; an empty one lets everything through.

        Raises:
            InvalidInputError: It is no such condition, or passes a limit.
        """
        if len(text) > MAX_BYTES:
            raise _wrong(f"{len(text)} characters; expected at most {MAX_BYTES}")
        try:
            said = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"{_quoted(text)} is not JSON: {error}") from error
        return _Compiler().compile(said)


def column(field: str) -> str:
    """SQL for a field of a document; the same text in a filter and in an index on that field.

    Args:
        field: Such as `brand`, or `damage.part` for a field of a field.

    Raises:
        InvalidInputError: It holds a character that no field name may.
    """
    return f"json_extract(document, {_path(field)})"


class _Compiler:
    """Collects parameters while it walks; true SQL for a condition and for its opposite."""

    def __init__(self) -> None:
        self._parameters: list[str | int | float] = []
        self._conditions = 0

    def compile(self, said: Any) -> Filter:
        sql = self._object(said, depth=1, negated=False)
        return Filter(sql, tuple(self._parameters))

    def _object(self, said: Any, depth: int, negated: bool) -> str:
        if not isinstance(said, dict):
            raise _wrong(f"{_quoted(said)}; expected an object of fields and conditions")
        if depth > MAX_DEPTH:
            raise _wrong(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for name, value in said.items():
            if name in ("$and", "$or"):
                parts.append(self._list(name, value, depth, negated))
            elif name == "$not":
                parts.append(self._object(value, depth + 1, not negated))
            elif name.startswith("$"):
                raise _wrong(f"{name!r} is not one of $and, $or, $not; a field comes first")
            else:
                parts.append(self._field(name, value, depth, negated))
        return _joined(parts, any_of=negated)

    def _list(self, name: str, value: Any, depth: int, negated: bool) -> str:
        if not isinstance(value, list) or not value:
            raise _wrong(f"{name!r} has {_quoted(value)}; expected a list of conditions")
        parts = [self._object(one, depth + 1, negated) for one in value]
        return _joined(parts, any_of=(name == "$or") != negated)

    def _field(self, field: str, value: Any, depth: int, negated: bool) -> str:
        path = _path(field)
        if not isinstance(value, dict):
            return self._condition(path, "$eq", value, field, negated)
        if not value:
            raise _wrong(f"{field!r} has no condition; expected one of {', '.join(_OPERATORS)}")
        if depth > MAX_DEPTH:
            raise _wrong(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for operator, operand in value.items():
            if operator not in _OPERATORS:
                raise _wrong(f"{field!r} has {operator!r}; expected one of {', '.join(_OPERATORS)}")
            if operator == "$not":
                if not isinstance(operand, dict):
                    raise _wrong(f"{field!r}: $not has {_quoted(operand)}; expected conditions")
                parts.append(self._field(field, operand, depth + 1, not negated))
            elif operator in ("$ne", "$nin"):
                same = "$eq" if operator == "$ne" else "$in"
                parts.append(self._condition(path, same, operand, field, not negated))
            else:
                parts.append(self._condition(path, operator, operand, field, negated))
        return _joined(parts, any_of=negated)

    def _condition(self, path: str, operator: str, value: Any, field: str, negated: bool) -> str:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _wrong(f"more than {MAX_CONDITIONS} conditions")
        try:
            sql = self._leaf(path, operator, value)
        except ValueError as error:
            raise _wrong(f"{field!r}: {operator} has {_quoted(value)}; expected {error}") from error
        # Not `NOT`: where a field is missing, the condition is NULL, and its opposite true.
        return f"(({sql}) IS NOT TRUE)" if negated else f"({sql})"

    def _leaf(self, path: str, operator: str, value: Any) -> str:
        extracted, kind = f"json_extract(document, {path})", f"json_type(document, {path})"
        if operator == "$exists":
            if not isinstance(value, bool):
                raise ValueError("true or false")
            return f"{extracted} IS {'NOT ' if value else ''}NULL"
        if operator == "$contains":
            return (
                f"EXISTS (SELECT 1 FROM json_each(document, {path}) AS one "  # nosec B608
                f"WHERE {kind} = 'array' AND {self._equal('one.value', 'one.type', value)})"
            )
        if operator == "$in":
            return self._one_of(extracted, kind, value)
        if operator in _ORDER:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError("a number or a string")
            types = "= 'text'" if isinstance(value, str) else "IN ('integer', 'real')"
            return f"{extracted} {_ORDER[operator]} {self._bound(value)} AND {kind} {types}"
        return self._equal(extracted, kind, value)

    def _equal(self, extracted: str, kind: str, value: Any) -> str:
        if value is None:
            return f"{kind} = 'null'"
        if isinstance(value, bool):  # SQLite reads true as 1
            return f"{kind} = '{'true' if value else 'false'}'"
        if isinstance(value, str):  # an object's text is no string
            return f"{extracted} = {self._bound(value)} AND {kind} = 'text'"
        if isinstance(value, int | float):
            return f"{extracted} = {self._bound(value)} AND {kind} IN ('integer', 'real')"
        raise ValueError("a string, a number, true, false or null")

    def _one_of(self, extracted: str, kind: str, values: Any) -> str:
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:
            raise ValueError(f"a list of 1 to {MAX_VALUES} values")
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if _number(value)]
        parts = []
        for some, types in ((texts, "= 'text'"), (numbers, "IN ('integer', 'real')")):
            if some:
                marks = ", ".join(self._bound(value) for value in some)
                parts.append(f"({extracted} IN ({marks}) AND {kind} {types})")
        others = [value for value in values if not isinstance(value, str) and not _number(value)]
        parts += [f"({self._equal(extracted, kind, value)})" for value in others]
        return " OR ".join(parts)

    def _bound(self, value: str | int | float) -> str:
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise ValueError("a whole number of 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a finite number")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("valid Unicode") from None
        self._parameters.append(value)
        return "?"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _joined(parts: list[str], *, any_of: bool) -> str:
    """All of the parts, or any of them; of none all are true, and none is."""
    if not parts:
        return "(0)" if any_of else "(1)"
    return parts[0] if len(parts) == 1 else f"({(' OR ' if any_of else ' AND ').join(parts)})"


def _path(field: str) -> str:
    """A JSON path as an SQL literal; the whitelist lets no quote through."""
    keys = field.split(".")
    if len(field) > _MAX_NAME or not all(_KEY.fullmatch(key) for key in keys):
        raise _wrong(
            f"{_quoted(field)} is no field name; expected up to {_MAX_NAME} characters without "
            "quotes, brackets or backslashes, and dots between the names of nested fields"
        )
    return "'$." + ".".join(f'"{key}"' for key in keys) + "'"


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def _wrong(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="filter")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
