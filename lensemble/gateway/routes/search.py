"""`POST /v1/search`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from lensemble.gateway.answers import SearchAnswer
from lensemble.gateway.errors import said
from lensemble.gateway.inputs.schemas import Looking, SearchRequest
from lensemble.gateway.service import Service, Timed, answer, trace_of, until_gone, usage
from lensemble_client import calls
from lensemble_client.calls import Call, Hit, Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError


def router(service: Service) -> APIRouter:
    """The routes."""
    made = APIRouter(tags=["search"])

    @made.post("/v1/search", response_model=SearchAnswer)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Finds the nearest items of the corpus to items, a vector, or a stored item.

        An item that fails has `"hits": null` and its `error` in its place; if all fail, the first
        one's error is the answer.
        """
        found = await found_for(service, body, request)
        return answer(
            {
                "object": "list",
                "data": [_entry(n, one) for n, one in enumerate(found)],
                "usage": usage(found),
            }
        )

    return made


async def found_for(
    service: Service, body: SearchRequest, request: Request
) -> list[Measured[list[Hit]] | LensembleError]:
    """The hits of each item of a request.

    Raises:
        LensembleError: The request says nothing or too much, or all items fail.
    """
    if sum(one is not None for one in (body.input, body.vector, body.like)) != 1:
        raise InvalidInputError("expected one of `input`, `vector` and `like`", field="input")
    looking = how(body)
    trace = trace_of(request)
    if body.input is None:
        _refuse_item_fields(body)
        if body.vector is None:
            like = calls.more_like(body.like or "", looking)
            return await until_gone(request, _alone(service, like, request))
        near = calls.search_vector(body.vector, looking, body.profile)
        try:
            return await until_gone(request, _alone(service, near, request))
        except InvalidInputError as error:
            if error.field == contract.EMBEDDING.name:  # Triton's name of it; here it has another
                raise InvalidInputError(error.message, field="vector") from error
            raise
    sent = body.input if isinstance(body.input, list) else [body.input]
    with Timed(trace, "read"):
        items = await until_gone(request, service.inputs.items(sent, body.instruction))
    return await until_gone(
        request,
        service.run(items, lambda some: calls.search(some, looking, body.dimensions), trace),
    )


def how(body: Looking) -> calls.SearchOptions:
    """How to search."""
    return calls.SearchOptions(body.top_k, body.filter, body.exclude, body.min_score)


async def _alone(
    service: Service, call: Call[list[list[Hit]]], request: Request
) -> list[Measured[list[Hit]] | LensembleError]:
    trace = trace_of(request)
    trace.items += 1
    found = await service.client.run(calls.measured(call))
    trace.note(found)
    return [*found]


def _refuse_item_fields(body: SearchRequest) -> None:
    """What says how to embed, where nothing is embedded."""
    for name in ("instruction", "dimensions"):
        if getattr(body, name) is not None:
            raise InvalidInputError("it goes with `input` only", field=name)
    if body.profile is not None and body.vector is None:
        raise InvalidInputError("it goes with `vector` only", field="profile")


def shown(hit: Hit) -> dict[str, Any]:
    """A hit as JSON."""
    return {"id": hit.id, "score": hit.score, "document": hit.document}


def _entry(n: int, result: Measured[list[Hit]] | LensembleError) -> dict[str, Any]:
    if isinstance(result, LensembleError):
        return {"object": "hits", "index": n, "hits": None, "error": said(result)}
    return {"object": "hits", "index": n, "hits": [shown(hit) for hit in result.result]}
