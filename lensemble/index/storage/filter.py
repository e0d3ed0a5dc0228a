"""Filters on documents: JSON in MongoDB's syntax, compiled to SQL with parameters.

    {"brand": "seat", "year": {"$gte": 2015, "$lt": 2020}, "$or": [{"door": true}, ...]}

The operators are those of MongoDB, which Pinecone, Chroma and LangChain use, too. SQL injection is
not possible: the characters of field names are checked against a whitelist, and values are bound as
parameters. Types are strict: a condition on a missing field, or on a value of another type, is
false. `$ne`, `$nin` and `$not` are true wherever `$eq`, `$in` or the condition in `$not` is not.
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
MAX_VALUES = 1000  # values of one `$in` or `$nin`

_KEY = re.compile(
    r"[^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]$][^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]]*"
)
_MAX_NAME = 256
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARISONS, "$exists", "$contains", "$not")
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as an SQL condition.

    Attributes:
        sql: boolean expression over the column `document`; it gives true, false, or NULL, which
            counts as false.
        parameters: values for the question marks in `sql`, in order.
    """

    sql: str
    parameters: tuple[str | int | float, ...]

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Compiles a filter.

        Args:
            text: JSON object; an empty one matches every document.

        Raises:
            InvalidInputError: The text is not a filter, or it exceeds a limit of this module.
        """
        if len(text) > MAX_BYTES:
            raise _invalid(f"{len(text)} characters; expected at most {MAX_BYTES}")
        try:
            conditions = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"{_quoted(text)} is not JSON: {error}") from error
        return _Compiler().compile(conditions)


def field_expression(field: str) -> str:
    """SQL expression for a document field.

    SQLite uses an SQL index on a field only if the filter has exactly the same expression.

    Args:
        field: name of the field, such as `brand`, or `damage.part` for a nested field.

    Raises:
        InvalidInputError: The name has a character that is not allowed.
    """
    return f"json_extract(document, {_path(field)})"


class _Compiler:
    """Compiles one filter and collects its parameters.

    Each method with a parameter `negated` returns the SQL of the opposite condition if it is true.
    SQL's `NOT` would not do, because it leaves NULL unchanged.
    """

    def __init__(self) -> None:
        self._parameters: list[str | int | float] = []
        self._conditions = 0

    def compile(self, conditions: Any) -> Filter:
        sql = self._object(conditions, depth=1, negated=False)
        return Filter(sql, tuple(self._parameters))

    def _object(self, conditions: Any, depth: int, negated: bool) -> str:
        if not isinstance(conditions, dict):
            raise _invalid(f"{_quoted(conditions)}; expected an object of fields and conditions")
        if depth > MAX_DEPTH:
            raise _invalid(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for name, value in conditions.items():
            if name in ("$and", "$or"):
                parts.append(self._list(name, value, depth, negated))
            elif name == "$not":
                parts.append(self._object(value, depth + 1, not negated))
            elif name.startswith("$"):
                raise _invalid(f"{name!r}; expected $and, $or, $not or the name of a field")
            else:
                parts.append(self._field(name, value, depth, negated))
        return _joined(parts, any_of=negated)

    def _list(self, name: str, value: Any, depth: int, negated: bool) -> str:
        if not isinstance(value, list) or not value:
            raise _invalid(f"{name!r} has {_quoted(value)}; expected a list of conditions")
        parts = [self._object(conditions, depth + 1, negated) for conditions in value]
        return _joined(parts, any_of=(name == "$or") != negated)

    def _field(self, field: str, value: Any, depth: int, negated: bool) -> str:
        path = _path(field)
        if not isinstance(value, dict):
            return self._condition(path, "$eq", value, field, negated)
        if not value:
            raise _invalid(f"{field!r} has no condition; expected one of {', '.join(_OPERATORS)}")
        if depth > MAX_DEPTH:
            raise _invalid(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for operator, operand in value.items():
            if operator not in _OPERATORS:
                raise _invalid(
                    f"{field!r} has {operator!r}; expected one of {', '.join(_OPERATORS)}"
                )
            if operator == "$not":
                if not isinstance(operand, dict):
                    raise _invalid(f"{field!r}: $not has {_quoted(operand)}; expected conditions")
                parts.append(self._field(field, operand, depth + 1, not negated))
            elif operator in ("$ne", "$nin"):
                opposite = "$eq" if operator == "$ne" else "$in"
                parts.append(self._condition(path, opposite, operand, field, not negated))
            else:
                parts.append(self._condition(path, operator, operand, field, negated))
        return _joined(parts, any_of=negated)

    def _condition(self, path: str, operator: str, value: Any, field: str, negated: bool) -> str:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _invalid(f"more than {MAX_CONDITIONS} conditions")
        try:
            sql = self._leaf(path, operator, value)
        except ValueError as error:
            raise _invalid(
                f"{field!r}: {operator} has {_quoted(value)}; expected {error}"
            ) from error
        # Where a field is missing, the condition is NULL, and its opposite must be true.
        return f"(({sql}) IS NOT TRUE)" if negated else f"({sql})"

    def _leaf(self, path: str, operator: str, value: Any) -> str:
        extracted, type_ = f"json_extract(document, {path})", f"json_type(document, {path})"
        if operator == "$exists":
            if not isinstance(value, bool):
                raise ValueError("true or false")
            return f"{extracted} IS {'NOT ' if value else ''}NULL"
        if operator == "$contains":
            is_equal = self._equal("element.value", "element.type", value)
            return (
                f"EXISTS (SELECT 1 FROM json_each(document, {path}) AS element "  # nosec B608
                f"WHERE {type_} = 'array' AND {is_equal})"
            )
        if operator == "$in":
            return self._in_list(extracted, type_, value)
        if operator in _COMPARISONS:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError("a number or a string")
            types = "= 'text'" if isinstance(value, str) else "IN ('integer', 'real')"
            comparison = _COMPARISONS[operator]
            return f"{extracted} {comparison} {self._bound(value)} AND {type_} {types}"
        return self._equal(extracted, type_, value)

    def _equal(self, extracted: str, type_: str, value: Any) -> str:
        if value is None:
            return f"{type_} = 'null'"
        if isinstance(value, bool):  # json_extract returns 1 for true
            return f"{type_} = '{'true' if value else 'false'}'"
        if isinstance(value, str):  # json_extract returns text for an object, too
            return f"{extracted} = {self._bound(value)} AND {type_} = 'text'"
        if isinstance(value, int | float):
            return f"{extracted} = {self._bound(value)} AND {type_} IN ('integer', 'real')"
        raise ValueError("a string, a number, true, false or null")

    def _in_list(self, extracted: str, type_: str, values: Any) -> str:
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:
            raise ValueError(f"a list of 1 to {MAX_VALUES} values")
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if _is_number(value)]
        parts = []
        for same_type, types in ((texts, "= 'text'"), (numbers, "IN ('integer', 'real')")):
            if same_type:
                marks = ", ".join(self._bound(value) for value in same_type)
                parts.append(f"({extracted} IN ({marks}) AND {type_} {types})")
        rest = [value for value in values if not isinstance(value, str) and not _is_number(value)]
        parts += [f"({self._equal(extracted, type_, value)})" for value in rest]
        return " OR ".join(parts)

    def _bound(self, value: str | int | float) -> str:
        """Adds a parameter, and returns its question mark."""
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise ValueError("an integer of at most 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a finite number")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("valid Unicode") from None
        self._parameters.append(value)
        return "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _joined(parts: list[str], *, any_of: bool) -> str:
    """Joins conditions with OR or AND; OR of no conditions is false, AND of none is true."""
    if not parts:
        return "(0)" if any_of else "(1)"
    return parts[0] if len(parts) == 1 else f"({(' OR ' if any_of else ' AND ').join(parts)})"


def _path(field: str) -> str:
    """The JSON path of a field as an SQL literal; the whitelist allows no quotes."""
    keys = field.split(".")
    if len(field) > _MAX_NAME or not all(_KEY.fullmatch(key) for key in keys):
        raise _invalid(
            f"{_quoted(field)} is not a field name; expected up to {_MAX_NAME} characters without "
            "quotes, brackets or backslashes, and dots between the names of nested fields"
        )
    return "'$." + ".".join(f'"{key}"' for key in keys) + "'"


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def _invalid(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="filter")


def refuse_constant(name: str) -> NoReturn:
    """Refuses NaN and Infinity, which Python's JSON decoder accepts; pass it as `parse_constant`.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is not a JSON value")
