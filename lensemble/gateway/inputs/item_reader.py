"""Makes items from parsed JSON bodies. `request_schemas` defines in which forms an item is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from lensemble.gateway.errors import with_location
from lensemble.gateway.inputs.json_bodies import run_off_loop
from lensemble.gateway.inputs.request_schemas import (
    ContentInput,
    FieldsInput,
    ImagePart,
    ItemInput,
    Message,
    NewItem,
    Part,
    TextPart,
)
from lensemble_contract import contract
from lensemble_contract.data_urls import check_no_data_url, decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item

# Fetches a picture from another host: URL -> encoded bytes. Raises LensembleError if the URL is not
# allowed or cannot be fetched.
FetchPicture: TypeAlias = Callable[[str], Awaitable[bytes]]

# Roles of the messages that make one item, in order.
_ALLOWED_ROLES = (
    ["user"],
    ["user", "assistant"],
    ["system", "user"],
    ["system", "user", "assistant"],
)


class ItemReader:
    """Makes items from parsed JSON bodies.

    Args:
        fetch_picture: fetches pictures that are not in the request itself.
        max_items: largest number of items in one request.
    """

    def __init__(self, fetch_picture: FetchPicture, max_items: int) -> None:
        self._fetch_picture, self._max_items = fetch_picture, max_items

    async def read_many(
        self, inputs: Sequence[ItemInput], instruction: str | None
    ) -> list[Item | LensembleError]:
        """The items of a request, in order; an error takes the place of an item that is unusable.

        Args:
            inputs: items as they were sent.
            instruction: the request's instruction, for items without one of their own.

        Raises:
            InvalidInputError: There are no items, or too many.
        """
        if not 1 <= len(inputs) <= self._max_items:
            raise InvalidInputError(
                f"{len(inputs)} items; expected 1 to {self._max_items}"
                + ("; send several requests" if inputs else ""),
                field="input",
            )
        items: list[Item | LensembleError] = []
        for item_input in inputs:
            try:
                items.append(await self.read(item_input, instruction))
            except LensembleError as error:
                items.append(error)
        return items

    async def read(self, item_input: ItemInput, instruction: str | None) -> Item:
        """Makes one item.

        Args:
            item_input: the item as it was sent.
            instruction: the request's instruction, for an item without one of its own.

        Raises:
            LensembleError: The item is empty or malformed, or a picture is unusable.
        """
        if (
            isinstance(item_input, FieldsInput | ContentInput)
            and item_input.instruction is not None
        ):
            instruction = item_input.instruction
        texts, urls = _texts_and_urls(item_input)
        return await self._build(texts, urls, instruction)

    async def read_new_item(self, new_item: NewItem) -> Item:
        """The item to embed and store.

        Raises:
            LensembleError: As for `read`, or `content` is sent together with `text` or `image`.
        """
        instruction = new_item.instruction
        if new_item.content is None:
            fields = FieldsInput(text=new_item.text, image=new_item.image, instruction=instruction)
            return await self.read(fields, None)
        if new_item.text is not None or new_item.image is not None:
            raise InvalidInputError(
                "expected either `content`, or `text` and `image`; send one of the two",
                field="content",
            )
        return await self.read(
            ContentInput(content=new_item.content, instruction=instruction), None
        )

    async def read_messages(self, messages: Sequence[Message], instruction: str | None) -> Item:
        """The item of a conversation: vLLM's clients send one item as messages.

        Args:
            messages: the messages as they were sent.
            instruction: the request's instruction; a system message replaces it.

        Raises:
            LensembleError: As for `read`, or the messages are not one user message, optionally with
                a system message before it and an empty assistant message after it.
        """
        roles = [message.role for message in messages]
        if roles not in _ALLOWED_ROLES:
            raise InvalidInputError(
                f"{roles}; expected one user message, optionally with a system message before it "
                "and an empty assistant message after it",
                field="messages",
            )
        content_of = {message.role: message.content for message in messages}
        text_of = {
            role: "\n".join(_texts_and_urls(content)[0]) for role, content in content_of.items()
        }
        for role, content in content_of.items():
            if role != "user" and _texts_and_urls(content)[1]:
                raise InvalidInputError(
                    f"the {role} message has a picture; send pictures in the user message",
                    field="messages",
                )
        if text_of.get("assistant"):
            raise InvalidInputError(
                f"the assistant message has the text {text_of['assistant'][:60]!r}; expected none",
                field="messages",
            )
        return await self.read(content_of["user"], text_of.get("system", instruction))

    async def _build(self, texts: list[str], urls: list[str], instruction: str | None) -> Item:
        if len(urls) > contract.MAX_IMAGES_PER_ITEM:
            raise InvalidInputError(
                f"{len(urls)} pictures in one item; at most {contract.MAX_IMAGES_PER_ITEM}",
                field="image",
            )
        images = [await self._read_picture(url, f"image[{n}]") for n, url in enumerate(urls)]
        item = Item("\n".join(texts) or None, tuple(images), instruction)
        if item.text is None and not images:
            raise InvalidInputError("the item is empty; give a text, a picture, or both")
        _check_unicode(item.text, "text")
        check_no_data_url(item.text or "", "text")
        _check_unicode(item.instruction, "instruction")
        return item

    async def _read_picture(self, url: str, field: str) -> bytes:
        """The encoded bytes of the picture in a data URL, or at another URL.

        Raises:
            LensembleError: The picture is malformed or too large, or may not be fetched.
        """
        if is_data_url(url):
            return await run_off_loop(len(url), decode_data_url, url, field)
        try:
            return await self._fetch_picture(url)
        except LensembleError as error:
            raise with_location(error, field) from error


def _texts_and_urls(item_input: ItemInput) -> tuple[list[str], list[str]]:
    """The texts of an item, and the URLs of its pictures."""
    if isinstance(item_input, str):
        return [item_input], []
    if isinstance(item_input, ContentInput):
        return _texts_and_urls(item_input.content)
    if isinstance(item_input, FieldsInput):
        image = item_input.image
        urls = [image] if isinstance(image, str) else image or []
        return [] if item_input.text is None else [item_input.text], urls
    parts: list[Part] = item_input if isinstance(item_input, list) else [item_input]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    image_urls = [part.image_url for part in parts if isinstance(part, ImagePart)]
    return texts, [url if isinstance(url, str) else url.url for url in image_urls]


def _check_unicode(text: str | None, field: str) -> None:
    """Refuses unpaired surrogates, which are possible in JSON but not in UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"character {error.start} is an unpaired surrogate; send valid Unicode", field=field
        ) from None
