"""Bodies of `POST /v1/items`: JSON with several items, or a form with one item and files."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from lensemble.gateway.inputs.forms import is_form, read_form, utf8_text
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader, ValueCounter, pieces_of
from lensemble.gateway.inputs.json_parser import parse_json
from lensemble.gateway.inputs.request_schemas import ItemsRequest, NewItem
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Record

_FORM_FIELDS = ("id", "text", "instruction", "document", "image")
# JSON schema of the form, for OpenAPI.
FORM_SCHEMA = {
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
    request: Request, item_reader: ItemReader, body_reader: BodyReader
) -> list[tuple[str, Record | LensembleError]]:
    """The items to store.

    Args:
        request: the request.
        item_reader: makes items from JSON.
        body_reader: reads JSON bodies.

    Returns:
        The id of each item with the item, or with an error in its place.

    Raises:
        InvalidInputError: The body is neither JSON of the expected shape nor a valid form, or it
            has too many items.
    """
    if is_form(request):
        return [await _read_form(request)]
    body = await body_reader.read(request, ItemsRequest, any_type=True)
    return [(item.id, await _read_json_item(item, item_reader)) for item in body.items]


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
    form = await read_form(
        request,
        max_files=contract.MAX_IMAGES_PER_ITEM,
        max_fields=len(_FORM_FIELDS),
        max_part_size=contract.MAX_TEXT_BYTES,
    )
    try:
        for name in form:
            if name not in _FORM_FIELDS:
                raise InvalidInputError(
                    f"there is no such field here; expected {', '.join(_FORM_FIELDS)}",
                    field=ascii(name)[1:-1],
                )
        images = [await _read_file(file, n) for n, file in enumerate(form.getlist("image"))]
        id_, text = _text_field(form, "id"), _text_field(form, "text")
        instruction = _text_field(form, "instruction")
        document = _parse_document(_text_field(form, "document") or "{}")
    finally:
        await form.close()
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
    return utf8_text(str(values[0]), name) if values else None


def _parse_document(text: str) -> dict[str, Any]:
    content, counter = text.encode(), ValueCounter()
    try:
        for piece in pieces_of(content):
            counter.feed(piece)
        document = parse_json(content, counter.long_integer)
        if not isinstance(document, dict):
            raise InvalidInputError("not a JSON object")
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{text[:60]!r}; expected a JSON object ({error.message})", field="document"
        ) from error
    return document
