"""JSON bodies of responses: their schemas for /docs, and the function that writes them.

The routes build plain dicts, without these models: validating thousands of floats would take longer
than writing them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response
from pydantic import BaseModel, Field

from lensemble.gateway.inputs.json_bodies import run_off_loop
from lensemble_client.results import Measured

_BYTES_PER_VALUE = 10


async def list_response(data: Sequence[dict[str, Any]], values: int, **others: Any) -> Response:
    """A JSON response with `"object": "list"` and `data`.

    Each entry is written by itself, a large response in a thread, so that the event loop can do
    other work in between.

    Args:
        data: the entries; NumPy arrays become lists.
        values: about the number of JSON values in them.
        others: further fields.
    """

    def write() -> bytes:
        entries = b",".join(
            orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY) for entry in data
        )
        return b'{"object":"list","data":[' + entries + b"]," + orjson.dumps(others)[1:]

    content = await run_off_loop(values * _BYTES_PER_VALUE, write)
    return Response(content, media_type="application/json")


def json_response(content: dict[str, Any]) -> Response:
    """A JSON response; NumPy arrays become lists without being converted to Python floats first."""
    return Response(json_bytes(content), media_type="application/json")


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON in UTF-8.

    An index of an earlier version may have documents that are refused today: nested deeper than
    orjson writes, or with integers of more than 64 bits. Python's own encoder writes them.
    """
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        return json.dumps(content, ensure_ascii=False, default=np.ndarray.tolist).encode()


def token_usage(results: Sequence[object]) -> dict[str, int]:
    """The tokens of all results, in the shape of OpenAI's `usage`."""
    tokens = sum(result.tokens for result in results if isinstance(result, Measured))
    return {"prompt_tokens": tokens, "total_tokens": tokens}


class Usage(BaseModel):
    """Tokens that a request used."""

    prompt_tokens: int = Field(description="tokens of all prompts, pictures included")
    total_tokens: int


class ErrorObject(BaseModel):
    """An error, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = Field(description="name of the field at fault")
    code: str


class ErrorResponse(BaseModel):
    """The body of every response whose status is not 2xx."""

    error: ErrorObject


class EmbeddingEntry(BaseModel):
    """The vector of one item, or its error."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | None
    error: ErrorObject | None = None


class EmbeddingsResponse(BaseModel):
    """Vectors, in the order of the items."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: Usage


class HitEntry(BaseModel):
    """One result of a search."""

    id: str
    score: float = Field(description="inner product of unit vectors; higher is nearer")
    document: dict[str, Any]


class SearchEntry(BaseModel):
    """The hits of one query, nearest first, or its error."""

    object: Literal["hits"]
    index: int
    hits: list[HitEntry] | None
    error: ErrorObject | None = None


class SearchResponse(BaseModel):
    """Hits, in the order of the queries."""

    object: Literal["list"]
    data: list[SearchEntry]
    usage: Usage
    warnings: list[str] | None = Field(
        None, description="hints about the filter, such as a field that no document has"
    )


class WriteEntry(BaseModel):
    """The sequence number of one write, or its error."""

    object: Literal["item"]
    index: int
    id: str
    sequence: int | None = Field(
        description="sequence number of the write; 0 if there was nothing to remove"
    )
    error: ErrorObject | None = None


class WritesResponse(BaseModel):
    """The result of each write, in the order of the items.

    A write with a sequence number is on the disk.
    """

    object: Literal["list"]
    data: list[WriteEntry]
    usage: Usage


class ItemResponse(BaseModel):
    """A stored item."""

    object: Literal["item"]
    id: str
    document: dict[str, Any]
    sequence: int
    embedding: list[float] | None = None


class ItemsResponse(BaseModel):
    """Some of the stored items that match a filter, in the order of their ids."""

    object: Literal["list"]
    data: list[ItemResponse]
    has_more: bool = Field(description="whether there are items behind these")
    next: str | None = Field(description="`after` of the request for the items behind these")
    count: int | None = Field(None, description="number of all items that match, if asked for")


class PatchedResponse(BaseModel):
    """The sequence number of a changed document."""

    object: Literal["item"]
    id: str
    sequence: int


class DeletedResponse(BaseModel):
    """A removed item."""

    object: Literal["item"]
    id: str
    deleted: bool
    sequence: int


class ModelEntry(BaseModel):
    """One embedder that Triton serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    model: str
    profile: str
    dimension: int | None
    dtype: str
    device: str


class ModelsResponse(BaseModel):
    """The embedders that Triton serves."""

    object: Literal["list"]
    data: list[ModelEntry]


class HealthResponse(BaseModel):
    """Whether requests can be served now; the status is 503 if not."""

    status: Literal["ok", "unavailable"]
    model_loaded: bool
    device: str | None
    gpu_name: str | None
