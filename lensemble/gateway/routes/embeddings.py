"""`POST /v1/embeddings` and `POST /qwen3/embeddings`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from lensemble.gateway.backends import Backends
from lensemble.gateway.disconnects import cancel_on_disconnect
from lensemble.gateway.errors import error_object
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.inputs.request_schemas import (
    EmbeddingsRequest,
    FieldsInput,
    ItemInput,
    Qwen3Request,
)
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.responses import EmbeddingsResponse, list_response, token_usage
from lensemble.gateway.routes.openapi import body_of
from lensemble_client import calls
from lensemble_client.quantization import quantize
from lensemble_client.results import Embedding, Measured
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item


def router(backends: Backends, item_reader: ItemReader, body_reader: BodyReader) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["embeddings"])

    async def embed(
        request: Request,
        items: list[Item | LensembleError],
        dimensions: int | None,
        embedder: str,
        partial: bool,
    ) -> list[Measured[Embedding] | LensembleError]:
        work = backends.run(
            items,
            lambda batch: calls.embed(batch, dimensions, embedder),
            RequestStats.of(request),
            partial=partial,
        )
        return await cancel_on_disconnect(request, work)

    @routes.post(
        "/v1/embeddings",
        response_model=EmbeddingsResponse,
        openapi_extra=body_of(EmbeddingsRequest),
    )
    async def embeddings(request: Request) -> Response:
        """Embeds texts, pictures, or both together, in OpenAI's shape.

        If an item fails, the response is its error. With `"partial": true`, the item has
        `"embedding": null` and its `error`, unless all items fail.
        """
        body = await body_reader.read(request, EmbeddingsRequest)
        embedder = await backends.served_models.resolve(body.model)
        with RequestStats.of(request).timed("read"):
            items = await cancel_on_disconnect(request, _read_items(body, item_reader))
        results = await embed(request, items, body.dimensions, embedder, body.partial)

        def convert(vector: NDArray[np.float32]) -> Any:
            quantized = quantize(vector, body.output_dtype)
            return _base64(quantized) if body.encoding_format == "base64" else quantized

        return await _response(results, convert, body.model or embedder)

    @routes.post(
        "/qwen3/embeddings", response_model=EmbeddingsResponse, openapi_extra=body_of(Qwen3Request)
    )
    async def qwen3_embeddings(request: Request) -> Response:
        """Embeds a text, a picture, a text with a picture (`image_url`), or a list of texts."""
        body = await body_reader.read(request, Qwen3Request)
        with RequestStats.of(request).timed("read"):
            items = await cancel_on_disconnect(
                request, item_reader.read_many(_qwen3_inputs(body), None)
            )
        results = await embed(request, items, None, contract.NATIVE, body.partial)
        return await _response(results, lambda vector: vector, body.model or contract.NATIVE)

    return routes


async def _read_items(
    body: EmbeddingsRequest, item_reader: ItemReader
) -> list[Item | LensembleError]:
    if (body.input is None) == (body.messages is None):
        raise InvalidInputError("expected either `input` or `messages`", field="input")
    if body.messages is not None:
        return [await item_reader.read_messages(body.messages, body.instruction)]
    inputs = body.input if isinstance(body.input, list) else [body.input]
    return await item_reader.read_many(inputs, body.instruction)


def _qwen3_inputs(body: Qwen3Request) -> list[ItemInput]:
    if body.image_url is None:
        if body.input is None:
            raise InvalidInputError("expected `input`, `image_url`, or both", field="input")
        return [body.input] if isinstance(body.input, str) else [*body.input]
    if isinstance(body.input, list):
        raise InvalidInputError(
            "a list of texts cannot share one picture; send one text, or use /v1/embeddings",
            field="input",
        )
    return [FieldsInput(text=body.input, image=body.image_url, instruction=None)]


async def _response(
    results: list[Measured[Embedding] | LensembleError],
    convert: Callable[[NDArray[np.float32]], Any],
    model: str,
) -> Response:
    """The response to a request that embeds.

    Args:
        results: one vector or error for each item.
        convert: makes the JSON value of a vector (D,) float32: an array or a string.
        model: name of the model, for the caller.
    """
    data: list[dict[str, Any]] = []
    for n, result in enumerate(results):
        entry: dict[str, Any] = {"object": "embedding", "index": n, "embedding": None}
        if isinstance(result, LensembleError):
            data.append({**entry, "error": error_object(result)})
        else:
            # orjson writes contiguous arrays only.
            vector = convert(result.result)
            value = vector if isinstance(vector, str) else np.ascontiguousarray(vector)
            data.append({**entry, "embedding": value})
    values = sum(each.result.size for each in results if isinstance(each, Measured))
    return await list_response(data, values, model=model, usage=token_usage(results))


def _base64(vector: NDArray[Any]) -> str:
    little_endian = vector.astype(vector.dtype.newbyteorder("<"))
    return base64.b64encode(little_endian.tobytes()).decode()
