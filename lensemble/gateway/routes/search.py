"""`POST /v1/search`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from lensemble.gateway.backends import Backends
from lensemble.gateway.disconnects import cancel_on_disconnect
from lensemble.gateway.errors import error_object
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.inputs.request_schemas import SearchFields, SearchRequest
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.responses import SearchResponse, json_response, token_usage
from lensemble.gateway.routes.openapi import body_of
from lensemble_client import calls
from lensemble_client.calls import Call
from lensemble_client.results import Hit, Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError


def router(backends: Backends, item_reader: ItemReader, body_reader: BodyReader) -> APIRouter:
    """The route of this module."""
    routes = APIRouter(tags=["search"])

    @routes.post("/v1/search", response_model=SearchResponse, openapi_extra=body_of(SearchRequest))
    async def search(request: Request) -> Response:
        """Finds the stored items nearest to items, to a vector, or to a stored item.

        An item that fails has `"hits": null` and its `error`. If all items fail, the response is
        the error of the first one.
        """
        body = await body_reader.read(request, SearchRequest)
        if sum(query is not None for query in (body.input, body.vector, body.like)) != 1:
            raise InvalidInputError(
                "expected exactly one of `input`, `vector` and `like`", field="input"
            )
        if body.input is None:
            results = await _search_without_items(body, request, backends)
        else:
            results = await _search_items(body, request, backends, item_reader)
        entries = [_entry(n, result) for n, result in enumerate(results)]
        return json_response({"object": "list", "data": entries, "usage": token_usage(results)})

    return routes


def search_options(fields: SearchFields) -> calls.SearchOptions:
    """The options of a search, as the client's calls take them."""
    return calls.SearchOptions(fields.top_k, fields.filter, fields.exclude, fields.min_score)


def hit_object(hit: Hit) -> dict[str, Any]:
    """A hit as a JSON object."""
    return {"id": hit.id, "score": hit.score, "document": hit.document}


async def _search_items(
    body: SearchRequest, request: Request, backends: Backends, item_reader: ItemReader
) -> list[Measured[list[Hit]] | LensembleError]:
    """Searches for items, which are embedded first."""
    stats = RequestStats.of(request)
    inputs = body.input if isinstance(body.input, list) else [body.input]
    with stats.timed("read"):
        items = await cancel_on_disconnect(request, item_reader.read_many(inputs, body.instruction))
    work = backends.run(
        items, lambda batch: calls.search(batch, search_options(body), body.dimensions), stats
    )
    return await cancel_on_disconnect(request, work)


async def _search_without_items(
    body: SearchRequest, request: Request, backends: Backends
) -> list[Measured[list[Hit]] | LensembleError]:
    """Searches with a vector, or with the vector of a stored item; nothing is embedded."""
    for field in ("instruction", "dimensions"):
        if getattr(body, field) is not None:
            raise InvalidInputError("it is allowed only with `input`", field=field)
    if body.profile is not None and body.vector is None:
        raise InvalidInputError("it is allowed only with `vector`", field="profile")
    call: Call[list[list[Hit]]]
    if body.vector is None:
        call = calls.more_like(body.like or "", search_options(body))
    else:
        call = calls.search_vector(body.vector, search_options(body), body.profile)
    stats = RequestStats.of(request)
    stats.items += 1
    try:
        results = await cancel_on_disconnect(request, backends.triton.run(calls.measured(call)))
    except InvalidInputError as error:
        if error.field == contract.EMBEDDING.name:  # the tensor's name; callers know it as `vector`
            raise InvalidInputError(error.message, field="vector") from error
        raise
    stats.add_results(results)
    return [*results]


def _entry(n: int, result: Measured[list[Hit]] | LensembleError) -> dict[str, Any]:
    if isinstance(result, LensembleError):
        return {"object": "hits", "index": n, "hits": None, "error": error_object(result)}
    return {"object": "hits", "index": n, "hits": [hit_object(hit) for hit in result.result]}
