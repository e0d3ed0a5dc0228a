"""What the gateway takes, as JSON: OpenAI's shapes, and more where they know no pictures."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from lensemble_client.quantization import OutputDtype
from lensemble_contract import contract


class Strict(BaseModel):
    """A field that is not known is refused: a misspelt one would pass in silence."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    """Words of an item."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where a picture is."""

    url: str = Field(description="`data:image/jpeg;base64,...`, or https where that is allowed")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="has no effect")


class ImagePart(Strict):
    """A picture of an item."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Fused(Strict):
    """A text, pictures, or both: one item, one vector."""

    text: str | None = None
    image: str | list[str] | None = Field(None, description="picture or pictures, as URLs")
    instruction: str | None = Field(None, description="replaces that of the request")


class Content(Strict):
    """One item in content parts. Pictures are read before words; words are joined by newlines."""

    content: str | list[Part]
    instruction: str | None = Field(None, description="replaces that of the request")


def _no_tokens(value: object) -> object:
    raise ValueError(
        "these are token ids, and another tokenizer's mean nothing here; send the text itself "
        "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
    )


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "tokens" if value and isinstance(value[0], int) else "parts"
    if isinstance(value, int):
        return "tokens"
    if isinstance(value, dict):
        return "part" if "type" in value else "content" if "content" in value else "item"
    if isinstance(value, BaseModel):
        return {Fused: "item", Content: "content"}.get(type(value), "part")
    return "text"


ItemInput: TypeAlias = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[Part], Tag("parts")]
    | Annotated[Part, Tag("part")]
    | Annotated[Content, Tag("content")]
    | Annotated[Fused, Tag("item")]
    | Annotated[Any, BeforeValidator(_no_tokens), Tag("tokens")],
    Discriminator(_form),
]
"""One item: a string, an object with `text` and `image`, or content parts."""


def _number(value: Any) -> str:
    return "many" if isinstance(value, list) else "one"


Input: TypeAlias = Annotated[
    Annotated[ItemInput, Tag("one")] | Annotated[list[ItemInput], Tag("many")],
    Discriminator(_number),
]
"""One item, or a list of items."""


class Message(Strict):
    """One turn, as vLLM's clients send an item: the system's is the instruction."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


class EmbeddingsRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str | None = Field(None, description="as `GET /v1/models` lists them")
    input: Input | None = Field(None, description="one item, or a list of items")
    messages: list[Message] | None = Field(None, description="one item, instead of `input`")
    instruction: str | None = Field(None, description="replaces the profile's")
    dimensions: int | None = Field(None, description="Matryoshka length of the vectors")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian"
    )
    output_dtype: OutputDtype = Field(
        "float", description="int8: scaled to 127; ubinary: eight components a byte"
    )
    user: str | None = Field(None, description="has no effect")
    # vLLM's clients ask so for the prompt that the profile prescribes anyway.
    continue_final_message: bool | None = Field(None, description="has no effect")
    add_special_tokens: bool | None = Field(None, description="has no effect")
    add_generation_prompt: bool | None = Field(None, description="has no effect")


class Qwen3Request(Strict):
    """`POST /qwen3/embeddings`."""

    model: str | None = Field(None, description="comes back as it was sent")
    input: str | list[str] | None = None
    image_url: str | None = Field(None, description="a picture that goes with `input`")


class Looking(Strict):
    """How to search."""

    top_k: int = Field(contract.DEFAULT_TOP_K, description=f"1 to {contract.MAX_TOP_K}")
    filter: dict[str, Any] | None = Field(None, description="condition on documents")
    exclude: list[str] = Field([], description="ids that are not to be found")
    min_score: float | None = None
    instruction: str | None = Field(None, description="replaces the profile's")


class SearchRequest(Looking):
    """`POST /v1/search`: `input`, `vector` or `like`."""

    input: Input | None = Field(None, description="one item, or a list of items")
    vector: list[float] | None = Field(None, description="made before, unit length")
    profile: str | None = Field(None, description="hash that `vector` was made under; checked")
    like: str | None = Field(None, description="id of a stored item: its neighbours")
    dimensions: int | None = None


class NewItem(Strict):
    """An item to store."""

    id: str
    text: str | None = None
    image: str | list[str] | None = Field(None, description="picture or pictures, as URLs")
    content: str | list[Part] | None = Field(None, description="instead of text and image")
    instruction: str | None = None
    document: dict[str, Any] = Field({}, description="what hits carry and filters look at")


class ItemsRequest(Strict):
    """`POST /v1/items`."""

    items: list[NewItem] = Field(min_length=1)


class IdsRequest(Strict):
    """`POST /v1/items/delete`."""

    ids: list[str] = Field(min_length=1)


class RagRequest(Looking):
    """`POST /v1/rag`."""

    input: ItemInput = Field(description="the question, with or without pictures")
    top_k: int = Field(3, description="sources to show to the chat server")
    model: str | None = Field(None, description="of the chat server")
    system: str | None = Field(None, description="replaces the gateway's system message")
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
