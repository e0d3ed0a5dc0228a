"""`/v1/items` writes, lists, changes and removes items; `/v1/index` describes the index."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from lensemble.gateway.backends import Backends
from lensemble.gateway.disconnects import cancel_on_disconnect
from lensemble.gateway.errors import error_object
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.inputs.new_items import FORM_SCHEMA, read_new_items
from lensemble.gateway.inputs.request_schemas import IdsRequest, ItemsRequest, PatchRequest
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.responses import (
    DeletedResponse,
    ItemResponse,
    ItemsResponse,
    PatchedResponse,
    WritesResponse,
    json_response,
    token_usage,
)
from lensemble.gateway.routes.openapi import body_of
from lensemble_client import calls
from lensemble_client.results import Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError, NotFoundError


def router(backends: Backends, item_reader: ItemReader, body_reader: BodyReader) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["items"])

    @routes.post(
        "/v1/items", response_model=WritesResponse, openapi_extra=body_of(ItemsRequest, FORM_SCHEMA)
    )
    async def store_items(request: Request) -> Response:
        """Embeds items and stores them under their ids; an item of the same id is replaced.

        The body is JSON, or a form with one item and its files. When the response arrives, the
        items are on the disk. An item that fails has its `error`. If all items fail, the response
        is the error of the first one.
        """
        stats = RequestStats.of(request)
        with stats.timed("read"):
            # Read the whole body first: `cancel_on_disconnect` would consume parts of it.
            await request.body()
            records = await cancel_on_disconnect(
                request, read_new_items(request, item_reader, body_reader)
            )
        results = await cancel_on_disconnect(request, backends.store(records, stats))
        entries = [
            _write_entry(n, id_, result)
            for n, ((id_, _), result) in enumerate(zip(records, results, strict=True))
        ]
        return json_response({"object": "list", "data": entries, "usage": token_usage(results)})

    @routes.post(
        "/v1/items/delete", response_model=WritesResponse, openapi_extra=body_of(IdsRequest)
    )
    async def delete_items(request: Request) -> Response:
        """Removes items; an item that is not stored has the sequence number 0."""
        body = await body_reader.read(request, IdsRequest)
        RequestStats.of(request).items += len(body.ids)
        sequences = await cancel_on_disconnect(request, backends.triton.delete(body.ids))
        entries = [
            {"object": "item", "index": n, "id": id_, "sequence": sequence}
            for n, (id_, sequence) in enumerate(zip(body.ids, sequences, strict=True))
        ]
        return json_response({"object": "list", "data": entries, "usage": token_usage([])})

    @routes.get("/v1/items", response_model=ItemsResponse)
    async def list_items(
        request: Request,
        filter: str | None = None,
        limit: int = contract.DEFAULT_LIST_LIMIT,
        after: str = "",
        count: bool = False,
    ) -> Response:
        """Lists stored items that match a filter, in the order of their ids."""
        condition = _parse_filter(filter)
        page = await cancel_on_disconnect(
            request, backends.triton.run(calls.list_page(condition, after, limit))
        )
        RequestStats.of(request).items += len(page.items)
        content: dict[str, Any] = {
            "object": "list",
            "data": [
                {
                    "object": "item",
                    "id": item.id,
                    "document": item.document,
                    "sequence": item.sequence,
                }
                for item in page.items
            ],
            "has_more": page.next is not None,
            "next": page.next,
        }
        if count:
            content["count"] = await cancel_on_disconnect(request, backends.triton.count(condition))
        return json_response(content)

    @routes.get("/v1/items/{id:text}", response_model=ItemResponse)
    async def get_item(id: str, request: Request, embedding: bool = False) -> Response:
        """Reads one stored item, and its vector if `embedding` is true."""
        RequestStats.of(request).items += 1
        stored = await cancel_on_disconnect(request, backends.triton.get(id))
        content: dict[str, Any] = {
            "object": "item",
            "id": stored.id,
            "document": stored.document,
            "sequence": stored.sequence,
        }
        return json_response({**content, "embedding": stored.embedding} if embedding else content)

    @routes.patch(
        "/v1/items/{id:text}", response_model=PatchedResponse, openapi_extra=body_of(PatchRequest)
    )
    async def patch_item(id: str, request: Request) -> Response:
        """Changes the document of one item; its vector stays, and nothing is embedded."""
        body = await body_reader.read(request, PatchRequest)
        RequestStats.of(request).items += 1
        sequence = await cancel_on_disconnect(
            request, backends.triton.patch(id, body.document, replace=body.replace)
        )
        return json_response({"object": "item", "id": id, "sequence": sequence})

    @routes.delete("/v1/items/{id:text}", response_model=DeletedResponse)
    async def delete_item(id: str, request: Request) -> Response:
        """Removes one item."""
        RequestStats.of(request).items += 1
        (sequence,) = await cancel_on_disconnect(request, backends.triton.delete([id]))
        if not sequence:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return json_response({"object": "item", "id": id, "deleted": True, "sequence": sequence})

    @routes.get("/v1/index")
    async def index_stats(request: Request) -> Response:
        """Counts, sizes, profile and plan of the index."""
        return json_response(await cancel_on_disconnect(request, backends.triton.stats()))

    return routes


def _parse_filter(text: str | None) -> dict[str, Any] | None:
    """The filter in a query string; the server checks what is in it."""
    if not text:
        return None
    try:
        condition = json.loads(text)
        if not isinstance(condition, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{text[:60]!r}; expected a JSON object ({error})", field="filter"
        ) from error
    return condition


def _write_entry(n: int, id_: str, result: Measured[int] | LensembleError) -> dict[str, Any]:
    entry: dict[str, Any] = {"object": "item", "index": n, "id": id_}
    if isinstance(result, LensembleError):
        return {**entry, "sequence": None, "error": error_object(result)}
    return {**entry, "sequence": result.result}
