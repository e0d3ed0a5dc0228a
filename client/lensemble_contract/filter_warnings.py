"""Hints about a filter that cannot match as its author thinks: unknown fields, other types.

A misspelt field is no error, because documents have no schema: each may have other fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lensemble_contract.filters import Condition, FieldCondition

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
