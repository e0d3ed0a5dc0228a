"""`POST /v1/search`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from lensemble.gateway.backends import Backends
from lensemble.gateway.disconnects import cancel_on_disconnect
from lensemble.gateway.errors import error_object
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.inputs.request_schemas import SearchFields, SearchRequest
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.responses import SearchResponse, list_response, token_usage
from lensemble.gateway.routes.openapi import body_of
from lensemble_client import calls
from lensemble_client.calls import Call
from lensemble_client.results import Hit, Hits, Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError

# Hits in one response.
MAX_HITS = 25_600
_VALUES_PER_HIT = 50


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
        others: dict[str, Any] = {"usage": token_usage(results)}
        if warnings := warnings_of(results):
            others["warnings"] = warnings
        hits = sum(len(each.result) for each in results if isinstance(each, Measured))
        return await list_response(entries, hits * _VALUES_PER_HIT, **others)

    return routes


def warnings_of(results: Sequence[Measured[Hits] | LensembleError]) -> list[str]:
    """The hints about the filter of a request; all its searches have the same filter."""
    hints = [
        hint for each in results if isinstance(each, Measured) for hint in each.result.warnings
    ]
    return list(dict.fromkeys(hints))


def search_options(fields: SearchFields) -> calls.SearchOptions:
    """The options of a search, as the client's calls take them."""
    return calls.SearchOptions(fields.top_k, fields.filter, fields.exclude, fields.min_score)


def hit_object(hit: Hit) -> dict[str, Any]:
    """A hit as a JSON object."""
    return {"id": hit.id, "score": hit.score, "document": hit.document}


async def _search_items(
    body: SearchRequest, request: Request, backends: Backends, item_reader: ItemReader
) -> list[Measured[Hits] | LensembleError]:
    """Searches for items, which are embedded first."""
    stats = RequestStats.of(request)
    inputs = body.input if isinstance(body.input, list) else [body.input]
    if len(inputs) * body.top_k > MAX_HITS:
        raise InvalidInputError(
            f"{len(inputs)} queries with up to {body.top_k} hits each; at most {MAX_HITS} hits in "
            "one request; send several requests",
            field="top_k",
        )
    with stats.timed("read"):
        items = await cancel_on_disconnect(request, item_reader.read_many(inputs, body.instruction))
    work = backends.run(
        items, lambda batch: calls.search(batch, search_options(body), body.dimensions), stats
    )
    return await cancel_on_disconnect(request, work)


async def _search_without_items(
    body: SearchRequest, request: Request, backends: Backends
) -> list[Measured[Hits] | LensembleError]:
    """Searches with a vector, or with the vector of a stored item; nothing is embedded."""
    for field in ("instruction", "dimensions"):
        if getattr(body, field) is not None:
            raise InvalidInputError("it is allowed only with `input`", field=field)
    if body.profile is not None and body.vector is None:
        raise InvalidInputError("it is allowed only with `vector`", field="profile")
    call: Call[list[Hits]]
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


def _entry(n: int, result: Measured[Hits] | LensembleError) -> dict[str, Any]:
    if isinstance(result, LensembleError):
        return {"object": "hits", "index": n, "hits": None, "error": error_object(result)}
    return {"object": "hits", "index": n, "hits": [hit_object(hit) for hit in result.result]}
