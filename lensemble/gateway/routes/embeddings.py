"""`POST /v1/embeddings` and `POST /qwen3/embeddings`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from lensemble.gateway.answers import EmbeddingsAnswer
from lensemble.gateway.errors import said
from lensemble.gateway.inputs.schemas import EmbeddingsRequest, Fused, ItemInput, Qwen3Request
from lensemble.gateway.service import Service, Timed, answer, trace_of, until_gone, usage
from lensemble_client import calls
from lensemble_client.calls import Embedding, Measured
from lensemble_client.quantization import OutputDtype, quantize
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item


def router(service: Service) -> APIRouter:
    """The routes."""
    made = APIRouter(tags=["embeddings"])

    @made.post("/v1/embeddings", response_model=EmbeddingsAnswer)
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        """Embeds texts, pictures, or both together; OpenAI's shape.

        An item that fails has `"embedding": null` and its `error` in its place; if all fail, the
        first one's error is the answer.
        """
        embedder = await service.models.named(body.model)
        with Timed(trace_of(request), "read"):
            items = await until_gone(request, _items(service, body))
        found = await _embedded(service, request, items, body.dimensions, embedder)
        form = _base64 if body.encoding_format == "base64" else np.ascontiguousarray
        return answer(
            {
                "object": "list",
                "data": [_entry(n, one, form, body.output_dtype) for n, one in enumerate(found)],
                "model": body.model or embedder,
                "usage": usage(found),
            }
        )

    @made.post("/qwen3/embeddings", response_model=EmbeddingsAnswer)
    async def qwen3_embeddings(body: Qwen3Request, request: Request) -> Response:
        """Embeds a text, a picture, or a list of texts; with `image_url`, one text goes with it."""
        with Timed(trace_of(request), "read"):
            items = await until_gone(request, service.inputs.items(_qwen3_items(body), None))
        found = await _embedded(service, request, items, None, contract.NATIVE)
        return answer(
            {
                "object": "list",
                "data": [_entry(n, one, np.ascontiguousarray) for n, one in enumerate(found)],
                "model": body.model or contract.NATIVE,
                "usage": usage(found),
            }
        )

    return made


async def _items(service: Service, body: EmbeddingsRequest) -> list[Item | LensembleError]:
    if (body.input is None) == (body.messages is None):
        raise InvalidInputError("expected either `input` or `messages`", field="input")
    if body.messages is not None:
        return [await service.inputs.message_item(body.messages, body.instruction)]
    sent = body.input if isinstance(body.input, list) else [body.input]
    return await service.inputs.items(sent, body.instruction)


def _qwen3_items(body: Qwen3Request) -> list[ItemInput]:
    if body.image_url is None:
        if body.input is None:
            raise InvalidInputError("expected `input`, `image_url`, or both", field="input")
        return [body.input] if isinstance(body.input, str) else [*body.input]
    if isinstance(body.input, list):
        raise InvalidInputError(
            "a list of texts beside one picture; send one text, or use /v1/embeddings",
            field="input",
        )
    return [Fused(text=body.input, image=body.image_url, instruction=None)]


async def _embedded(
    service: Service,
    request: Request,
    items: list[Item | LensembleError],
    dimensions: int | None,
    embedder: str,
) -> list[Measured[Embedding] | LensembleError]:
    return await until_gone(
        request,
        service.run(items, lambda some: calls.embed(some, dimensions, embedder), trace_of(request)),
    )


def _entry(
    n: int,
    result: Measured[Embedding] | LensembleError,
    form: Callable[[NDArray[Any]], Any],
    output_dtype: OutputDtype = "float",
) -> dict[str, Any]:
    if isinstance(result, LensembleError):
        return {"object": "embedding", "index": n, "embedding": None, "error": said(result)}
    vector = quantize(result.result, output_dtype)
    return {"object": "embedding", "index": n, "embedding": form(vector)}


def _base64(vector: NDArray[Any]) -> str:
    return base64.b64encode(vector.astype(vector.dtype.newbyteorder("<")).tobytes()).decode()
