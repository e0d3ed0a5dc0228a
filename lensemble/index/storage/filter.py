"""Compiles filters on documents (`lensemble_contract.filters`) to SQL with parameters.

SQL injection is not possible: `check_field_name` allows only certain characters in field names, and
values are bound as parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lensemble_contract.filters import (
    ComparedField,
    Condition,
    FieldCondition,
    check_field_name,
    compared_fields,
    parse_filter,
)

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as an SQL condition.

    Attributes:
        sql: boolean expression over the column `document`; it gives true, false, or NULL, which
            counts as false.
        parameters: values for the question marks in `sql`, in order.
        compared: the fields, and what they are compared with.
    """

    sql: str
    parameters: tuple[str | int | float, ...]
    compared: tuple[ComparedField, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Compiles a filter.

        Args:
            text: JSON object; an empty one matches every document.

        Raises:
            InvalidInputError: The text is not a filter, or it exceeds a limit of
                `lensemble_contract.filters`.
        """
        return _Compiler().compile(parse_filter(text))


def field_expression(field: str) -> str:
    """SQL expression for a document field.

    SQLite uses an SQL index on a field only if the filter has exactly the same expression.

    Args:
        field: name of the field, such as `brand`, or `damage.part` for a nested field.

    Raises:
        InvalidInputError: The name has a character that is not allowed.
    """
    check_field_name(field)
    return f"json_extract(document, {_path(field)})"


def type_expression(field: str) -> str:
    """SQL expression for the type of a document field, as SQLite names it; NULL if it is missing.

    Args:
        field: name of the field.

    Raises:
        InvalidInputError: The name has a character that is not allowed.
    """
    check_field_name(field)
    return f"json_type(document, {_path(field)})"


class _Compiler:
    """Compiles one filter and collects its parameters."""

    def __init__(self) -> None:
        self._parameters: list[str | int | float] = []

    def compile(self, condition: Condition) -> Filter:
        sql = self._condition(condition)
        return Filter(sql, tuple(self._parameters), compared_fields(condition))

    def _condition(self, condition: Condition) -> str:
        if isinstance(condition, FieldCondition):
            sql = self._field(condition)
            # Where a field is missing, the condition is NULL, and its opposite must be true. SQL's
            # `NOT` would not do, because it leaves NULL unchanged.
            return f"(({sql}) IS NOT TRUE)" if condition.negated else f"({sql})"
        if not condition.conditions:
            return "(0)" if condition.any_of else "(1)"
        parts = [self._condition(part) for part in condition.conditions]
        return f"({(' OR ' if condition.any_of else ' AND ').join(parts)})"

    def _field(self, condition: FieldCondition) -> str:
        path, operator, value = _path(condition.field), condition.operator, condition.value
        extracted, type_ = f"json_extract(document, {path})", f"json_type(document, {path})"
        if operator == "$exists":
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
            types = "= 'text'" if isinstance(value, str) else "IN ('integer', 'real')"
            comparison = _COMPARISONS[operator]
            return f"{extracted} {comparison} {self._bound(value)} AND {type_} {types}"
        return self._equal(extracted, type_, value)

    def _equal(self, extracted: str, type_: str, value: str | int | float | None) -> str:
        if value is None:
            return f"{type_} = 'null'"
        if isinstance(value, bool):  # json_extract returns 1 for true
            return f"{type_} = '{'true' if value else 'false'}'"
        if isinstance(value, str):  # json_extract returns text for an object, too
            return f"{extracted} = {self._bound(value)} AND {type_} = 'text'"
        return f"{extracted} = {self._bound(value)} AND {type_} IN ('integer', 'real')"

    def _in_list(self, extracted: str, type_: str, values: list[Any]) -> str:
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
        self._parameters.append(value)
        return "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _path(field: str) -> str:
    """The JSON path of a checked field name as an SQL literal; such a name has no quotes."""
    return "'$." + ".".join(f'"{key}"' for key in field.split(".")) + "'"
