"""Adds to `/openapi.json` what FastAPI cannot derive: bodies that routes read, and API keys."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_SCHEME = "API key"


def body_of(model: type[BaseModel], form_schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of a route's body, for `openapi_extra`.

    Args:
        model: schema of a JSON body.
        form_schema: JSON schema of a form that is accepted instead; None if there is none.
    """
    content = {"application/json": {"schema": _schema_of(model)}}
    if form_schema is not None:
        content["multipart/form-data"] = {"schema": form_schema}
    return {"requestBody": {"required": True, "content": content}}


def add_security(api: FastAPI, open_paths: tuple[str, ...], *, required: bool) -> None:
    """Adds the API key to an application's description, so that generated clients send it.

    Args:
        api: the application.
        open_paths: paths that need no key.
        required: whether the other paths need a key; else it is optional.
    """
    security: list[dict[str, list[str]]] = [{_SCHEME: []}] if required else [{_SCHEME: []}, {}]
    describe = api.openapi

    def openapi() -> dict[str, Any]:
        is_new = api.openapi_schema is None
        schema = describe()  # makes it once and keeps it
        if is_new:
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes[_SCHEME] = {
                "type": "http",
                "scheme": "bearer",
                "description": "`Authorization: Bearer KEY`; `lensemble keys add` makes keys.",
            }
            for path, operations in schema["paths"].items():
                for operation in operations.values() if path not in open_paths else ():
                    operation["security"] = security
        return schema

    api.openapi = openapi  # type: ignore[method-assign]


@cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return _without_references(model.model_json_schema())


def _without_references(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions inlined: `$ref` would not resolve inside OpenAPI."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(definitions[value["$ref"].rpartition("/")[2]])
            return {key: inline(part) for key, part in value.items() if key != "discriminator"}
        return [inline(part) for part in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined
