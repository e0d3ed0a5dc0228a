"""The base class of all settings: typed, frozen fields that environment variables set.

A settings class is a pydantic model. Its constructor takes values only; `from_env` reads the
variables. docs/decisions.md has the reason why pydantic-settings, which reads the environment in
the constructor, is not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticKnownError, PydanticUndefined

from lensemble_contract.errors import InvalidInputError


class SettingsBase(BaseModel):
    """Base class of settings; the field `name` is the environment variable `PREFIX + NAME`.

    Attributes:
        prefix: what the names of the variables begin with.
        refuses_unknown: whether `from_env` refuses variables with the prefix that name no setting.
        remedies: field without a default -> what to do if it is not set.

    Raises:
        InvalidInputError: A value cannot be used; its field is the name of the variable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    prefix: ClassVar[str]
    refuses_unknown: ClassVar[bool]
    remedies: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self._as_input_error(error) from None  # the chained text could show a secret

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_fractions(cls, value: object, info: ValidationInfo) -> object:
        """Refuses text such as `5.0` for a whole number; pydantic alone would take it as 5."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, str) and _type_name(field.annotation) == _TYPE_NAMES["int"]:
            try:
                int(value)
            except ValueError:
                raise PydanticKnownError("int_parsing") from None
        return value

    @classmethod
    def variable(cls, field: str) -> str:
        """Name of the environment variable of a field."""
        return f"{cls.prefix}{field.upper()}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Reads the settings from environment variables. Empty variables count as not set.

        Args:
            environ: the environment variables.
            **overrides: fields that win over the variables, such as command-line options. None
                leaves the variable in force, and empty text stands for the field's default.

        Raises:
            InvalidInputError: A value is missing or cannot be used, or a variable is unknown.
        """
        known = {cls.variable(field) for field in cls.model_fields}
        values: dict[str, Any] = {
            name.removeprefix(cls.prefix).lower(): _as_utf8(value, name)
            for name, value in environ.items()
            if name in known or (cls.refuses_unknown and name.startswith(cls.prefix))
        }
        values |= {name: value for name, value in overrides.items() if value is not None}
        stripped = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return cls(**{name: value for name, value in stripped.items() if value != ""})

    def to_env(self) -> dict[str, str]:
        """The environment variables that `from_env` reads back into these settings."""
        return {self.variable(name): _to_text(value) for name, value in self if value is not None}

    def with_changes(self, **changes: Any) -> Self:
        """A copy with other values in some fields, checked as a whole.

        Raises:
            InvalidInputError: A value cannot be used.
        """
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def _as_input_error(cls, error: ValidationError) -> InvalidInputError:
        """The first thing that is wrong, with the variable's name."""
        details = error.errors(include_url=False)[0]
        field = str(details["loc"][0]) if details["loc"] else ""
        if details["type"] == "missing":
            message = f"not set; {cls.remedies[field]}"
        else:
            message = _message(details, cls.model_fields.get(field))
        return InvalidInputError(message, field=cls.variable(field))


class SettingDescription(NamedTuple):
    """One setting, for documentation.

    Attributes:
        variable: name of the environment variable.
        type: what it takes, such as `whole number` or `auto, cpu or cuda`.
        default: text of the default value; empty if there is none.
        description: one or more sentences.
    """

    variable: str
    type: str
    default: str
    description: str


def describe_settings(settings: type[SettingsBase]) -> Iterator[SettingDescription]:
    """Describes every field of a settings class, in the order of the class.

    Args:
        settings: `Settings` or `GatewaySettings`.
    """
    for name, field in settings.model_fields.items():
        default = field.default
        yield SettingDescription(
            settings.variable(name),
            _type_name(field.annotation),
            "" if default is None or default is PydanticUndefined else _to_text(default),
            field.description or "",
        )


# Name of a Python type -> what the documentation and the error messages call it.
_TYPE_NAMES = {
    "bool": "true or false",
    "float": "number",
    "int": "whole number",
    "Path": "path",
    "SecretStr": "text (secret)",
    "str": "text",
    "tuple": "list, separated by commas",
}


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        *others, last = get_args(annotation)
        return f"{', '.join(others)} or {last}"
    if get_origin(annotation) is tuple:
        return _TYPE_NAMES["tuple"]
    options = [option for option in get_args(annotation) if option is not type(None)]
    if options:  # `X | None`
        return _type_name(options[0])
    return _TYPE_NAMES[annotation.__name__]


def _as_utf8(value: str, variable: str) -> str:
    """The text of a variable, also where Python took the environment's encoding for ASCII.

    That is so in Triton's model processes: `os.environ` has a surrogate for each byte there.

    Raises:
        InvalidInputError: The value is not UTF-8.
    """
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise InvalidInputError(
            "the value is not UTF-8; write it in UTF-8", field=variable
        ) from error


def _to_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


# Type of pydantic's error -> end of our message about the value. The words in braces are the limit
# and the name of the field's type.
_REASONS = {
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is not a whole number of a usable size",
    "float_parsing": "is not a number",
    "bool_parsing": "is not {type}",
    "literal_error": "is not {type}",
    "greater_than": "is not more than {gt:g}",
    "greater_than_equal": "is not at least {ge:g}",
    "less_than_equal": "is not at most {le:.15g}",
}
# Largest number of characters of a value that a message shows.
_MAX_SHOWN = 40


def _message(details: ErrorDetails, field: FieldInfo | None) -> str:
    if field is None:
        return "no such setting; check its spelling, or unset it"
    type_name = _type_name(field.annotation)
    if details["type"] in _REASONS:
        limits = details.get("ctx", {})
        reason = _REASONS[details["type"]].format_map({**limits, "type": type_name})
    else:
        reason = f"is not usable; expected: {type_name}"
    if type_name == _TYPE_NAMES["SecretStr"]:
        return f"the value {reason}"
    text = str(details["input"])
    return f"{text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'!r} {reason}"
