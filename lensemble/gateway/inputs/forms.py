"""Forms (`multipart/form-data`), read in steps, and their texts as UTF-8."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from lensemble.gateway.inputs.json_bodies import pieces_of
from lensemble_contract.errors import InvalidInputError

_CONTENT_TYPE = b"multipart/form-data"


def is_form(request: Request) -> bool:
    """Whether the body of a request is a form, in whatever case the content type is written."""
    content_type, _ = parse_options_header(request.headers.get("content-type", ""))
    return content_type.lower() == _CONTENT_TYPE


async def read_form(
    request: Request, *, max_files: int, max_fields: int, max_part_size: int
) -> FormData:
    """The form in the body of a request; close it after use.

    Its texts must be read with `utf8_text`.

    Args:
        request: the request.
        max_files: largest number of files.
        max_fields: largest number of texts.
        max_part_size: largest size of a text in bytes.

    Raises:
        HTTPException: The body is not a form, or exceeds a limit.
    """
    parser = MultiPartParser(
        Headers({"content-type": _with_latin_1(request.headers["content-type"])}),
        _in_pieces(request),
        max_files=max_files,
        max_fields=max_fields,
        max_part_size=max_part_size,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, error.message) from error


def utf8_text(latin_1: str, field: str) -> str:
    """A text of a form.

    Starlette reads a text that is not UTF-8 as Latin-1, which would store an item under another id
    than the caller's. So the form is read as Latin-1, which keeps every byte, and decoded here.

    Args:
        latin_1: the text's bytes, decoded as Latin-1.
        field: name of the field.

    Raises:
        InvalidInputError: The text is not UTF-8.
    """
    content = latin_1.encode("latin-1")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{content[:60]!r} is not valid UTF-8 at byte {error.start}; send it in UTF-8",
            field=field,
        ) from error


def _with_latin_1(content_type: str) -> str:
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "Missing boundary in multipart.")
    boundary = options[b"boundary"].decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
    return f'multipart/form-data; boundary="{boundary}"; charset=latin-1'


async def _in_pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body in pieces that the parser reads in a few milliseconds each."""
    async for message in request.stream():
        for piece in pieces_of(message):
            yield piece
            await asyncio.sleep(0)
