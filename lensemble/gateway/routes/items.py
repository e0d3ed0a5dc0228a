"""`/v1/items`: writes and reads of the index."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from lensemble.gateway.answers import DeletedAnswer, ItemAnswer, StoredAnswer
from lensemble.gateway.errors import from_validation, placed, said
from lensemble.gateway.inputs.schemas import IdsRequest, ItemsRequest, NewItem
from lensemble.gateway.observability.telemetry import Trace
from lensemble.gateway.service import Service, Timed, answer, trace_of, until_gone
from lensemble_client import calls
from lensemble_client.calls import Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError, NotFoundError
from lensemble_contract.items import Item, Record

_AT_A_TIME = 16
"""Writes of one request under way at a time; the server batches them."""
_FORM_FIELDS = ("id", "text", "instruction", "document", "image")
_FORM = {
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
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ItemsRequest.model_json_schema()},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}


def router(service: Service) -> APIRouter:
    """The routes."""
    made = APIRouter(tags=["items"])

    @made.post("/v1/items", response_model=StoredAnswer, openapi_extra=_inlined(_BODY))
    async def upsert(request: Request) -> Response:
        """Embeds items and stores them under their ids; on return they are on the disk.

        As JSON, or one item as a form with files. An item that fails has its `error` in its place;
        if all fail, the first one's error is the answer.
        """
        trace = trace_of(request)
        with Timed(trace, "read"):
            # All of it first: who waits for the caller to go would take pieces of it away.
            await request.body()
            records = await until_gone(request, _records(service, request))
        found = await until_gone(request, _stored(service, records, trace))
        tokens = sum(one.tokens for one in found if isinstance(one, Measured))
        return answer(
            {
                "object": "list",
                "data": [
                    _entry(n, id_, one)
                    for n, ((id_, _), one) in enumerate(zip(records, found, strict=True))
                ],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    @made.post("/v1/items/delete", response_model=StoredAnswer)
    async def delete_many(body: IdsRequest, request: Request) -> Response:
        """Removes items; one that is not there has sequence number 0."""
        _check_count(len(body.ids), service.settings.items, "ids")
        trace_of(request).items += len(body.ids)
        sequences = await until_gone(request, service.client.delete(body.ids))
        return answer(
            {
                "object": "list",
                "data": [
                    {"object": "item", "index": n, "id": id_, "sequence": sequence}
                    for n, (id_, sequence) in enumerate(zip(body.ids, sequences, strict=True))
                ],
                "usage": {"prompt_tokens": 0, "total_tokens": 0},
            }
        )

    @made.get("/v1/items/{id:path}", response_model=ItemAnswer)
    async def get(id: str, request: Request, embedding: bool = False) -> Response:
        """Reads one stored item, with its vector if that is asked for."""
        trace_of(request).items += 1
        stored = await until_gone(request, service.client.get(id))
        shown: dict[str, Any] = {
            "object": "item",
            "id": stored.id,
            "document": stored.document,
            "sequence": stored.sequence,
        }
        return answer({**shown, "embedding": stored.embedding} if embedding else shown)

    @made.delete("/v1/items/{id:path}", response_model=DeletedAnswer)
    async def delete(id: str, request: Request) -> Response:
        """Removes one item."""
        trace_of(request).items += 1
        (sequence,) = await until_gone(request, service.client.delete([id]))
        if not sequence:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return answer({"object": "item", "id": id, "deleted": True, "sequence": sequence})

    @made.get("/v1/index")
    async def stats(request: Request) -> Response:
        """What the index is: counts, sizes, profile, plan."""
        return answer(await until_gone(request, service.client.stats()))

    return made


async def _records(service: Service, request: Request) -> list[tuple[str, Record | LensembleError]]:
    """Ids, each with what is to be stored or what is wrong with it."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [await _form_record(request)]
    try:
        sent = ItemsRequest.model_validate(orjson.loads(await request.body()))
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from error
    _check_count(len(sent.items), service.settings.items, "items")
    return [(item.id, await _record(service, item)) for item in sent.items]


async def _record(service: Service, sent: NewItem) -> Record | LensembleError:
    try:
        return Record(sent.id, await service.inputs.new_item(sent), sent.document)
    except LensembleError as error:
        return error


async def _form_record(request: Request) -> tuple[str, Record]:
    """The one item of a form with files.

    Raises:
        InvalidInputError: A field is not known, twice there, or cannot be read.
    """
    async with request.form(
        max_files=contract.MAX_IMAGES_PER_ITEM,
        max_fields=len(_FORM_FIELDS),
        max_part_size=contract.MAX_TEXT_BYTES,
    ) as form:
        for name in form:
            if name not in _FORM_FIELDS:
                raise InvalidInputError(
                    f"there is no such field here; there are {', '.join(_FORM_FIELDS)}", field=name
                )
        images = [await _file(one, n) for n, one in enumerate(form.getlist("image"))]
        text, instruction = _text(form, "text"), _text(form, "instruction")
        id_, document = _text(form, "id"), _text(form, "document")
    if id_ is None:
        raise InvalidInputError("it is missing", field="id")
    try:
        said = orjson.loads(document or "{}")
        if not isinstance(said, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise InvalidInputError(
            f"{(document or '')[:60]!r}; expected a JSON object ({error})", field="document"
        ) from error
    return id_, Record(id_, Item.of(text, images or None, instruction), said)


async def _file(sent: UploadFile | str, n: int) -> bytes:
    if isinstance(sent, str):
        raise InvalidInputError("a text; expected a file", field=f"image[{n}]")
    if (sent.size or 0) > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{sent.size} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=f"image[{n}]",
        )
    return await sent.read()


def _text(form: FormData, name: str) -> str | None:
    values = form.getlist(name)
    if len(values) > 1 or any(not isinstance(value, str) for value in values):
        raise InvalidInputError("expected one text", field=name)
    return str(values[0]) if values else None


async def _stored(
    service: Service, records: list[tuple[str, Record | LensembleError]], trace: Trace
) -> list[Measured[int] | LensembleError]:
    """Sequence numbers or errors, in order; a later item of the same id is written later.

    Raises:
        LensembleError: The first one, if all failed.
    """
    room = asyncio.Semaphore(_AT_A_TIME)
    before: dict[str, asyncio.Task[Any]] = {}

    async def one(
        record: Record | LensembleError, earlier: asyncio.Task[Any] | None
    ) -> Measured[int] | LensembleError:
        if isinstance(record, LensembleError):
            return record
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            async with room:
                return (await service.client.run(calls.measured(calls.ingest(record))))[0]
        except LensembleError as error:
            return error

    trace.items += len(records)
    async with asyncio.TaskGroup() as group:
        tasks = []
        for id_, record in records:
            before[id_] = group.create_task(one(record, before.get(id_)))
            tasks.append(before[id_])
            trace.pictures += len(record.item.images) if isinstance(record, Record) else 0
    found = [task.result() for task in tasks]
    trace.note(found)
    for n, result in enumerate(found):
        if isinstance(result, LensembleError):
            found[n] = placed(result, f"items[{n}]")
    if not any(isinstance(result, Measured) for result in found):
        assert isinstance(found[0], LensembleError)
        raise found[0]
    return found


def _check_count(count: int, most: int, field: str) -> None:
    if count > most:
        raise InvalidInputError(
            f"{count} of them; at most {most}; send several requests", field=field
        )


def _entry(n: int, id_: str, result: Measured[int] | LensembleError) -> dict[str, Any]:
    entry: dict[str, Any] = {"object": "item", "index": n, "id": id_}
    if isinstance(result, LensembleError):
        return {**entry, "sequence": None, "error": said(result)}
    return {**entry, "sequence": result.result}


def _inlined(body: dict[str, Any]) -> dict[str, Any]:
    """The schema without references of its own, which would point nowhere inside a larger one."""
    schema = body["requestBody"]["content"]["application/json"]["schema"]
    named = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(named[value["$ref"].rpartition("/")[2]])
            return {key: inline(one) for key, one in value.items() if key != "discriminator"}
        return [inline(one) for one in value] if isinstance(value, list) else value

    body["requestBody"]["content"]["application/json"]["schema"] = inline(schema)
    return body
