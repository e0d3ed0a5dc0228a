"""Filters on documents: JSON in MongoDB's syntax, read and checked.

    {"brand": "seat", "year": {"$gte": 2015, "$lt": 2020}, "$or": [{"door": true}, ...]}

The operators are those of MongoDB, which Pinecone, Chroma and LangChain use, too. The index
compiles the parsed conditions to SQL, and the fake server of `lensemble_client.testing` evaluates
them in Python.

A filter that names a field which no document has, or compares a field with another type, is no
error, because documents have no schema. `ComparedField.warning` tells the caller.

Types are strict: a condition on a missing field, or on a value of another type, is false. `$ne`,
`$nin` and `$not` are true wherever `$eq`, `$in` or the condition in `$not` is not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from lensemble_contract.errors import InvalidInputError
from lensemble_contract.texts import check_unicode, quoted

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 1000  # values of one `$in` or `$nin`

# Conditions of one filter that are looked at.
MAX_COMPARED = 16

# Kinds of JSON values, as in `kind_of`, and the words for them.
_WORDS = {
    "null": "null",
    "boolean": "true or false",
    "number": "a number",
    "text": "a string",
    "list": "a list",
    "object": "an object",
}

_KEY = re.compile(
    r"[^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]$][^\x00-\x1f\x7f\ud800-\udfff\"'\\.\[\]]*"
)
_MAX_NAME = 256
_COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARISONS, "$exists", "$contains", "$not")
_OPPOSITES = {"$ne": "$eq", "$nin": "$in"}
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class FieldCondition:
    """A condition on one field.

    Attributes:
        field: Name of the field, such as `brand`, or `damage.part` for a nested field.
        operator: `$eq`, `$in`, `$gt`, `$gte`, `$lt`, `$lte`, `$exists` or `$contains`.
        value: What the field is compared with: a list of scalars for `$in`, a bool for `$exists`, a
            string or a number for the comparisons, and a scalar for the others.
        negated: Whether the opposite is wanted. The opposite is also true where the field is
            missing.
    """

    field: str
    operator: str
    value: Any
    negated: bool


@dataclass(frozen=True, slots=True)
class ConditionGroup:
    """Several conditions, of which all or any must be true.

    Attributes:
        conditions: The conditions. Any of no conditions is false, and all of none is true.
        any_of: Whether one true condition is enough.
    """

    conditions: tuple[Condition, ...]
    any_of: bool


Condition: TypeAlias = FieldCondition | ConditionGroup


def parse_filter(text: str) -> Condition:
    """Reads a filter. Negations are moved inwards, so only conditions on fields have them.

    Args:
        text: JSON object; an empty one matches every document.

    Raises:
        InvalidInputError: The text is not a filter, or it exceeds a limit of this module.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _invalid(f"{size} bytes; expected at most {MAX_BYTES}")
    try:
        conditions = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{quoted(text)} is not JSON: {error}") from error
    return _Parser().group(conditions, depth=1, negated=False)


def check_field_name(field: str) -> None:
    """Checks the name of a document field.

    Raises:
        InvalidInputError: The name is empty or too long, or has a character that is not allowed.
    """
    if len(field) > _MAX_NAME or not all(_KEY.fullmatch(key) for key in field.split(".")):
        raise _invalid(
            f"{quoted(field)} is not a field name; expected up to {_MAX_NAME} characters without "
            "quotes, brackets or backslashes, and dots between the names of nested fields"
        )


def refuse_constant(name: str) -> NoReturn:
    """Refuses NaN and Infinity, which Python's JSON decoder accepts; pass it as `parse_constant`.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is not a JSON value")


@dataclass(frozen=True, slots=True)
class ComparedField:
    """A field of a filter, and what it is compared with.

    Attributes:
        field: Name of the field, such as `brand`, or `damage.part`.
        kinds: Kinds of the values with which it is compared: keys of `_WORDS`.
    """

    field: str
    kinds: frozenset[str]

    def warning(self, found: Collection[str]) -> str:
        """The hint for a field that has none of the kinds in any document.

        Args:
            found: Kinds that the field has in documents.
        """
        if not found:
            return f"filter: no document has the field {self.field!r}"
        return (
            f"filter: {self.field!r} is compared with {_in_words(self.kinds)}, but in documents it "
            f"is {_in_words(found)}"
        )


def compared_fields(condition: Condition) -> tuple[ComparedField, ...]:
    """The fields of a filter, without repetitions, and at most `MAX_COMPARED` of them.

    Args:
        condition: What `parse_filter` returned.
    """
    compared: dict[ComparedField, None] = {}
    for part in _field_conditions(condition):
        if (kinds := _kinds(part)) and len(compared) < MAX_COMPARED:
            compared[ComparedField(part.field, kinds)] = None
    return tuple(compared)


def kind_of(value: object) -> str:
    """The kind of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "object"


def _field_conditions(condition: Condition) -> Iterator[FieldCondition]:
    if isinstance(condition, FieldCondition):
        yield condition
        return
    for part in condition.conditions:
        yield from _field_conditions(part)


def _kinds(condition: FieldCondition) -> frozenset[str]:
    """The kinds of values that can fulfil a condition; none if a missing field can, too."""
    if condition.operator == "$exists":
        return frozenset(_WORDS.keys() - {"null"}) if condition.value else frozenset()
    if condition.operator == "$contains":
        return frozenset({"list"})
    values = condition.value if condition.operator == "$in" else [condition.value]
    return frozenset(map(kind_of, values))


def _in_words(kinds: Collection[str]) -> str:
    return " or ".join(words for kind, words in _WORDS.items() if kind in kinds)


class _Parser:
    """Reads one filter, and counts its conditions.

    Each method with a parameter `negated` returns the opposite condition if it is true.
    """

    def __init__(self) -> None:
        self._count = 0

    def group(self, conditions: Any, depth: int, negated: bool) -> Condition:
        if not isinstance(conditions, dict):
            raise _invalid(f"{quoted(conditions)}; expected an object of fields and conditions")
        if depth > MAX_DEPTH:
            raise _invalid(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for name, value in conditions.items():
            if name in ("$and", "$or"):
                parts.append(self._list(name, value, depth, negated))
            elif name == "$not":
                parts.append(self.group(value, depth + 1, not negated))
            elif name.startswith("$"):
                raise _invalid(f"{quoted(name)}; expected $and, $or, $not or the name of a field")
            else:
                parts.append(self._field(name, value, depth, negated))
        return _joined(parts, any_of=negated)

    def _list(self, name: str, value: Any, depth: int, negated: bool) -> Condition:
        if not isinstance(value, list) or not value:
            raise _invalid(f"{quoted(name)} has {quoted(value)}; expected a list of conditions")
        parts = [self.group(conditions, depth + 1, negated) for conditions in value]
        return _joined(parts, any_of=(name == "$or") != negated)

    def _field(self, field: str, value: Any, depth: int, negated: bool) -> Condition:
        check_field_name(field)
        if not isinstance(value, dict):
            return self._condition(field, "$eq", value, negated)
        if not value:
            raise _invalid(f"{field!r} has no condition; expected one of {', '.join(_OPERATORS)}")
        if depth > MAX_DEPTH:
            raise _invalid(f"nested deeper than {MAX_DEPTH}")
        parts = []
        for operator, operand in value.items():
            if operator not in _OPERATORS:
                raise _invalid(
                    f"{field!r} has {quoted(operator)}; expected one of {', '.join(_OPERATORS)}"
                )
            if operator == "$not":
                if not isinstance(operand, dict):
                    raise _invalid(f"{field!r}: $not has {quoted(operand)}; expected conditions")
                parts.append(self._field(field, operand, depth + 1, not negated))
            elif operator in _OPPOSITES:
                parts.append(self._condition(field, _OPPOSITES[operator], operand, not negated))
            else:
                parts.append(self._condition(field, operator, operand, negated))
        return _joined(parts, any_of=negated)

    def _condition(self, field: str, operator: str, value: Any, negated: bool) -> Condition:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise _invalid(f"more than {MAX_CONDITIONS} conditions")
        try:
            _check_operand(operator, value)
        except ValueError as error:
            raise _invalid(
                f"{field!r}: {operator} has {quoted(value)}; expected {error}"
            ) from error
        return FieldCondition(field, operator, value, negated)


def _joined(parts: Sequence[Condition], *, any_of: bool) -> Condition:
    return parts[0] if len(parts) == 1 else ConditionGroup(tuple(parts), any_of)


def _check_operand(operator: str, value: Any) -> None:
    if operator == "$exists":
        if not isinstance(value, bool):
            raise ValueError("true or false")
    elif operator == "$in":
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
            raise ValueError(f"a list of 1 to {MAX_VALUES} values")
        for each in value:
            _check_scalar(each)
    elif operator in _COMPARISONS and (
        isinstance(value, bool) or not isinstance(value, str | int | float)
    ):
        raise ValueError("a number or a string")
    else:
        _check_scalar(value)


def _check_scalar(value: Any) -> None:
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("a string, a number, true, false or null")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValueError("an integer of at most 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    if isinstance(value, str):
        try:
            check_unicode(value)
        except ValueError:
            raise ValueError("valid Unicode without U+0000") from None


def _invalid(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="filter")
