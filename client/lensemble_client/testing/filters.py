"""Evaluates filters on documents (docs/index.md) in Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from lensemble_contract.filters import Condition, FieldCondition

# In place of the value of a field that a document does not have.
MISSING = object()
_SCALARS = ("null", "boolean", "number", "text")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(condition: Condition, document: Mapping[str, Any]) -> bool:
    """Whether a document meets a condition, as in the real index.

    Args:
        condition: What `parse_filter` returned.
        document: The stored JSON object.
    """
    if isinstance(condition, FieldCondition):
        field = field_of(document, condition.field)
        return _field_matches(field, condition) is not condition.negated
    results = (matches(part, document) for part in condition.conditions)
    return any(results) if condition.any_of else all(results)


def field_of(document: Mapping[str, Any], name: str) -> Any:
    """The value of a field of a document, such as `damage.part`; `MISSING` if there is none."""
    field: Any = document
    for key in name.split("."):
        field = field.get(key, MISSING) if isinstance(field, Mapping) else MISSING
    return field


def _field_matches(field: Any, condition: FieldCondition) -> bool:
    value = condition.value
    match condition.operator:
        case "$in":
            return any(_equal(field, each) for each in value)
        case "$exists":
            return (_json_type(field) not in ("missing", "null")) is value
        case "$contains":
            return isinstance(field, list) and any(_equal(each, value) for each in field)
        case name if name in _COMPARISONS:
            return _json_type(field) == _json_type(value) and _COMPARISONS[name](field, value)
    return _equal(field, value)


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
    return "missing" if value is MISSING else "container"
