"""Templates of texts, such as `{damage_type} on {part}`, which the fields of a row fill in."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from lensemble_contract.errors import InvalidInputError


class TextTemplate:
    """A text with names of fields in braces.

    Braces may contain only a name: no attribute, index, conversion or format. `{{` stands for one
    brace.

    Args:
        text: The template.

    Raises:
        InvalidInputError: Braces are not closed, or contain anything but a name.
    """

    def __init__(self, text: str) -> None:
        try:
            self._parts = [*Formatter().parse(text)]
        except ValueError as error:
            raise InvalidInputError(f"{text!r}: {error}", field="text") from error
        for _, name, format_, conversion in self._parts:
            if name is not None and (not name or set(name) & set(".[]") or format_ or conversion):
                raise InvalidInputError(
                    f"{text!r}; expected only names of fields in braces, such as {{damage_type}}",
                    field="text",
                )
        self._fields = {name for _, name, _, _ in self._parts if name is not None}

    def fill_in(self, row: Mapping[str, Any]) -> str:
        """Returns the text for a row. A field that is null becomes empty.

        Raises:
            InvalidInputError: The row lacks a field, or has bytes in it.
        """
        for name in sorted(self._fields - row.keys()):
            raise InvalidInputError(
                f"the template names {name!r}; the row has {list_fields(row)}", field="text"
            )
        for name in sorted(self._fields):
            if isinstance(row[name], bytes):
                raise InvalidInputError(
                    f"the template names {name!r}, which has {len(row[name])} bytes; expected text",
                    field="text",
                )
        values = {name: "" if row[name] is None else str(row[name]) for name in self._fields}
        return "".join(
            literal + ("" if name is None else values[name]) for literal, name, _, _ in self._parts
        )


def list_fields(row: Mapping[str, Any]) -> str:
    """Returns the names of a row's fields, for a message."""
    return ", ".join(map(repr, row)) or "no fields"
