"""Bodies of `POST /v1/items`: JSON with several items, or a form with one item and files."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from lensemble.gateway.errors import from_validation_errors
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.request_schemas import ItemsRequest, NewItem
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Record

_FORM_FIELDS = ("id", "text", "instruction", "document", "image")
_FORM_SCHEMA = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "text": {"type": "string"},
        "instruction": {"type": "string"},
        "document": {"type": "string", "description": "a JSON object"},
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}


async def read_new_items(
    request: Request, item_reader: ItemReader, max_items: int
) -> list[tuple[str, Record | LensembleError]]:
    """The items to store.

    Args:
        request: the request.
        item_reader: makes items from JSON.
        max_items: largest number of items in one request.

    Returns:
        The id of each item with the item, or with an error in its place.

    Raises:
        InvalidInputError: The body is neither JSON of the expected shape nor a valid form, or it
            has too many items.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [await _read_form(request)]
    try:
        body = ItemsRequest.model_validate(orjson.loads(await request.body()))
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    except ValidationError as error:
        raise from_validation_errors(error.errors(include_url=False)) from error
    check_count(len(body.items), max_items, "items")
    return [(item.id, await _read_json_item(item, item_reader)) for item in body.items]


def check_count(count: int, max_count: int, field: str) -> None:
    """Refuses a list that is too long.

    Raises:
        InvalidInputError: There are more than `max_count`.
    """
    if count > max_count:
        raise InvalidInputError(
            f"{count} {field} in one request; at most {max_count}; send several requests",
            field=field,
        )


def openapi_body() -> dict[str, Any]:
    """The OpenAPI description of the body. FastAPI cannot derive it: the route reads the body."""
    json_schema = _without_references(ItemsRequest.model_json_schema())
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": json_schema},
                "multipart/form-data": {"schema": _FORM_SCHEMA},
            },
        }
    }


async def _read_json_item(new_item: NewItem, item_reader: ItemReader) -> Record | LensembleError:
    try:
        item = await item_reader.read_new_item(new_item)
    except LensembleError as error:
        return error
    return Record(new_item.id, item, new_item.document)


async def _read_form(request: Request) -> tuple[str, Record]:
    """The item of a form.

    Raises:
        InvalidInputError: A field is unknown, repeated, or malformed.
    """
    async with request.form(
        max_files=contract.MAX_IMAGES_PER_ITEM,
        max_fields=len(_FORM_FIELDS),
        max_part_size=contract.MAX_TEXT_BYTES,
    ) as form:
        for name in form:
            if name not in _FORM_FIELDS:
                raise InvalidInputError(
                    f"there is no such field here; expected {', '.join(_FORM_FIELDS)}", field=name
                )
        images = [await _read_file(file, n) for n, file in enumerate(form.getlist("image"))]
        id_, text = _text_field(form, "id"), _text_field(form, "text")
        instruction = _text_field(form, "instruction")
        document = _parse_document(_text_field(form, "document") or "{}")
    if id_ is None:
        raise InvalidInputError("it is missing", field="id")
    return id_, Record(id_, Item.of(text, images or None, instruction), document)


async def _read_file(file: UploadFile | str, n: int) -> bytes:
    if isinstance(file, str):
        raise InvalidInputError("it is a text; expected a file", field=f"image[{n}]")
    if (file.size or 0) > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{file.size} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=f"image[{n}]",
        )
    return await file.read()


def _text_field(form: FormData, name: str) -> str | None:
    values = form.getlist(name)
    if len(values) > 1 or any(not isinstance(value, str) for value in values):
        raise InvalidInputError("expected one text", field=name)
    return str(values[0]) if values else None


def _parse_document(text: str) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise InvalidInputError(
            f"{text[:60]!r}; expected a JSON object ({error})", field="document"
        ) from error
    return document


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
