"""What the gateway gives, as JSON; for the documentation, as answers are written without them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Usage(BaseModel):
    """What a request took."""

    prompt_tokens: int = Field(description="tokens of all prompts, pictures included")
    total_tokens: int


class Problem(BaseModel):
    """An error."""

    message: str
    type: str
    param: str | None = Field(description="the field at fault")
    code: str


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx."""

    error: Problem


class EmbeddingEntry(BaseModel):
    """One item's vector, or its error."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | None
    error: Problem | None = None


class EmbeddingsAnswer(BaseModel):
    """Vectors, in the order of the items."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: Usage


class HitEntry(BaseModel):
    """One item of the corpus."""

    id: str
    score: float = Field(description="inner product of unit vectors; bigger is nearer")
    document: dict[str, Any]


class HitsEntry(BaseModel):
    """What was found for one item, nearest first, or its error."""

    object: Literal["hits"]
    index: int
    hits: list[HitEntry] | None
    error: Problem | None = None


class SearchAnswer(BaseModel):
    """Hits, in the order of the items."""

    object: Literal["list"]
    data: list[HitsEntry]
    usage: Usage


class StoredEntry(BaseModel):
    """One write, or its error."""

    object: Literal["item"]
    index: int
    id: str
    sequence: int | None = Field(description="of the change; 0 if there was nothing to remove")
    error: Problem | None = None


class StoredAnswer(BaseModel):
    """Writes, in the order of the items; what has a sequence number is on the disk."""

    object: Literal["list"]
    data: list[StoredEntry]
    usage: Usage


class ItemAnswer(BaseModel):
    """A stored item."""

    object: Literal["item"]
    id: str
    document: dict[str, Any]
    sequence: int
    embedding: list[float] | None = None


class DeletedAnswer(BaseModel):
    """A removed item."""

    object: Literal["item"]
    id: str
    deleted: bool
    sequence: int


class ModelEntry(BaseModel):
    """One embedder that serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    model: str
    profile: str
    dimension: int | None
    dtype: str
    device: str


class ModelsAnswer(BaseModel):
    """The embedders that serve."""

    object: Literal["list"]
    data: list[ModelEntry]


class HealthAnswer(BaseModel):
    """Whether requests can be served now; 503 if not."""

    status: Literal["ok", "unavailable"]
    model_loaded: bool
    device: str | None
    gpu_name: str | None
