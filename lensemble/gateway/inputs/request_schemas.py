"""Schemas of request bodies: OpenAI's shapes, extended by pictures, search and stored items.

Checking ends at the first fault of a list or an object, because each fault costs as much time as
checking a hundred values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from lensemble_client.quantization import OutputDtype
from lensemble_contract import contract

# Content parts of one item.
MAX_PARTS = 1024


class StrictModel(BaseModel):
    """Refuses unknown fields, so that a misspelt one is not silently ignored.

    A field that is null counts as left out: clients in some languages send null for every option
    that their caller has not set.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_needed(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kept = {}
        for name, entry in value.items():
            if name not in cls.model_fields:
                kept[name] = entry
                break  # one unknown field is enough to refuse the object
            if entry is not None:
                kept[name] = entry
        return kept


class TextPart(StrictModel):
    """A text in an item."""

    type: Literal["text"]
    text: str


class ImageUrl(StrictModel):
    """The URL of a picture."""

    url: str = Field(
        description="`data:image/jpeg;base64,...`, or https where the server allows it"
    )
    detail: Literal["auto", "low", "high"] | None = Field(None, description="has no effect")


class ImagePart(StrictModel):
    """A picture in an item."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts: TypeAlias = Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]
Strings: TypeAlias = Annotated[list[str], Field(fail_fast=True)]


class FieldsInput(StrictModel):
    """One item as an object with a text, pictures, or both."""

    text: str | None = None
    image: str | Strings | None = Field(None, description="URL of a picture, or several")
    instruction: str | None = Field(None, description="replaces the request's instruction")


class ContentInput(StrictModel):
    """One item in content parts. Pictures come before texts; texts are joined by newlines."""

    content: str | Parts
    instruction: str | None = Field(None, description="replaces the request's instruction")


def _refuse_token_ids(value: object) -> object:
    raise ValueError(
        "token ids of another tokenizer mean nothing here; send the text itself "
        "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
    )


def _item_form(value: Any) -> str:
    if isinstance(value, list):
        return "tokens" if value and isinstance(value[0], int) else "parts"
    if isinstance(value, int):
        return "tokens"
    if isinstance(value, dict):
        return "part" if "type" in value else "content" if "content" in value else "item"
    if isinstance(value, BaseModel):
        return {FieldsInput: "item", ContentInput: "content"}.get(type(value), "part")
    return "text"


# One item: a string, an object with `text` and `image`, or content parts.
ItemInput: TypeAlias = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Parts, Tag("parts")]
    | Annotated[Part, Tag("part")]
    | Annotated[ContentInput, Tag("content")]
    | Annotated[FieldsInput, Tag("item")]
    | Annotated[Any, BeforeValidator(_refuse_token_ids), Tag("tokens")],
    Discriminator(_item_form),
]


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list) else "one"


# One item, or a list of items.
Input: TypeAlias = Annotated[
    Annotated[ItemInput, Tag("one")]
    | Annotated[list[ItemInput], Field(fail_fast=True), Tag("many")],
    Discriminator(_one_or_many),
]


class Message(StrictModel):
    """One message of a conversation; the system's message is the item's instruction."""

    role: Literal["system", "user", "assistant"]
    content: str | Parts


_PARTIAL = "whether the other items have their vectors if one fails; else the request fails"


class EmbeddingsRequest(StrictModel):
    """`POST /v1/embeddings`."""

    model: str | None = Field(None, description="one that `GET /v1/models` lists")
    input: Input | None = Field(None, description="one item, or a list of items")
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(
        None, description="one item, instead of `input`"
    )
    instruction: str | None = Field(None, description="replaces the profile's instruction")
    dimensions: int | None = Field(None, description="Matryoshka length of the vectors")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64 encodes the little-endian bytes of the numbers"
    )
    output_dtype: OutputDtype = Field(
        "float",
        description="int8 scales components to -127 to 127; ubinary packs eight into a byte",
    )
    partial: bool = Field(False, description=_PARTIAL)
    user: str | None = Field(None, description="has no effect")
    # vLLM's clients use these to ask for the prompt that the profile prescribes anyway.
    continue_final_message: bool | None = Field(None, description="has no effect")
    add_special_tokens: bool | None = Field(None, description="has no effect")
    add_generation_prompt: bool | None = Field(None, description="has no effect")


class Qwen3Request(StrictModel):
    """`POST /qwen3/embeddings`."""

    model: str | None = Field(None, description="is returned as it was sent")
    input: str | Strings | None = None
    image_url: str | None = Field(None, description="a picture that goes with `input`")
    partial: bool = Field(False, description=_PARTIAL)


class SearchFields(StrictModel):
    """Fields of every request that searches."""

    top_k: int = Field(contract.DEFAULT_TOP_K, description=f"1 to {contract.MAX_TOP_K}")
    filter: dict[str, Any] | None = Field(None, description="conditions on documents")
    exclude: Strings = Field([], description="ids to leave out of the hits")
    min_score: float | None = None
    instruction: str | None = Field(None, description="replaces the profile's instruction")


class SearchRequest(SearchFields):
    """`POST /v1/search`; takes exactly one of `input`, `vector` and `like`."""

    input: Input | None = Field(None, description="one item, or a list of items")
    vector: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="a vector of unit length"
    )
    profile: str | None = Field(
        None, description="hash of the profile that `vector` was made with; checked"
    )
    like: str | None = Field(None, description="id of a stored item, whose neighbours are searched")
    dimensions: int | None = None


class NewItem(StrictModel):
    """An item to store."""

    id: str
    text: str | None = None
    image: str | Strings | None = Field(None, description="URL of a picture, or several")
    content: str | Parts | None = Field(None, description="instead of text and image")
    instruction: str | None = None
    document: dict[str, Any] = Field(
        {}, description="JSON object that hits contain and filters test"
    )


class ItemsRequest(StrictModel):
    """`POST /v1/items`."""

    items: Annotated[list[NewItem], Field(fail_fast=True)] = Field(min_length=1)


class IdsRequest(StrictModel):
    """`POST /v1/items/delete`."""

    ids: Strings = Field(min_length=1)


class PatchRequest(StrictModel):
    """`PATCH /v1/items/{id}`."""

    document: dict[str, Any] = Field(
        description="object that is merged into the document; null removes a field"
    )
    replace: bool = Field(False, description="whether it replaces the document instead")


class RagRequest(SearchFields):
    """`POST /v1/rag`."""

    input: ItemInput = Field(description="the question, with or without pictures")
    top_k: int = Field(3, description="number of sources for the chat server")
    model: str | None = Field(None, description="model of the chat server")
    system: str | None = Field(None, description="replaces the gateway's system message")
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
