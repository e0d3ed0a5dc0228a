"""Evaluates filters on documents (docs/index.md) in Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from lensemble_contract.errors import InvalidInputError

_MISSING = object()
_SCALARS = ("null", "boolean", "number", "text")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(condition: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether a document meets a condition, as in the real index.

    Args:
        condition: Such as `{"brand": "seat", "year": {"$gte": 2015}}`.
        document: The stored JSON object.

    Raises:
        InvalidInputError: There is no such operator.
    """
    return all(_entry_matches(name, value, document) for name, value in condition.items())


def _entry_matches(name: str, value: Any, document: Mapping[str, Any]) -> bool:
    if name == "$and":
        return all(matches(condition, document) for condition in value)
    if name == "$or":
        return any(matches(condition, document) for condition in value)
    if name == "$not":
        return not matches(value, document)
    if name.startswith("$"):
        raise InvalidInputError(f"{name!r}; expected $and, $or, $not or a field", field="filter")
    field: Any = document
    for key in name.split("."):
        field = field.get(key, _MISSING) if isinstance(field, Mapping) else _MISSING
    return _field_matches(field, value)


def _field_matches(field: Any, condition: Any) -> bool:
    if not isinstance(condition, Mapping):
        return _equal(field, condition)
    return all(_operator_matches(field, name, operand) for name, operand in condition.items())


def _operator_matches(field: Any, name: str, operand: Any) -> bool:
    match name:
        case "$eq":
            return _equal(field, operand)
        case "$ne":
            return not _equal(field, operand)
        case "$in":
            return any(_equal(field, value) for value in operand)
        case "$nin":
            return not any(_equal(field, value) for value in operand)
        case "$exists":
            return (_json_type(field) not in ("missing", "null")) is bool(operand)
        case "$contains":
            return isinstance(field, list) and any(_equal(value, operand) for value in field)
        case "$not":
            return not _field_matches(field, operand)
        case _ if name in _COMPARISONS:
            comparable = _json_type(field) == _json_type(operand) and _json_type(field) in (
                "text",
                "number",
            )
            return comparable and _COMPARISONS[name](field, operand)
    raise InvalidInputError(f"the fake server does not know {name!r}", field="filter")


def _equal(field: Any, value: Any) -> bool:
    """Whether two values are equal in JSON, where neither true nor "1" equals 1."""
    return (
        _json_type(field) == _json_type(value)
        and _json_type(value) in _SCALARS
        and bool(field == value)
    )


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "missing" if value is _MISSING else "container"
