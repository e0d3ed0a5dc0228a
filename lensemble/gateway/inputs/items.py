"""Requests -> items: the one place where OpenAI's and vLLM's ways to say it become ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lensemble.gateway.errors import placed
from lensemble.gateway.inputs.schemas import (
    Content,
    Fused,
    ImagePart,
    ItemInput,
    Message,
    NewItem,
    Part,
    TextPart,
)
from lensemble_contract import contract
from lensemble_contract.data_urls import decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item


class Fetch(Protocol):
    """Gets a picture from elsewhere."""

    async def __call__(self, url: str) -> bytes:
        """The picture's bytes.

        Raises:
            LensembleError: It is not allowed, or cannot be had.
        """


class Inputs:
    """Makes items.

    Args:
        fetch: For pictures that are not in the request itself.
        most: Items in one request.
    """

    def __init__(self, fetch: Fetch, most: int) -> None:
        self._fetch, self._most = fetch, most

    async def items(
        self, sent: Sequence[ItemInput], instruction: str | None
    ) -> list[Item | LensembleError]:
        """The items of a request, in order; an error stands in the place of a bad one.

        Args:
            sent: As they came.
            instruction: Of the request; an item's own stands above it.

        Raises:
            InvalidInputError: There are none, or too many.
        """
        if not 1 <= len(sent) <= self._most:
            raise InvalidInputError(
                f"{len(sent)} items; expected 1 to {self._most}; send several requests",
                field="input",
            )
        found: list[Item | LensembleError] = []
        for one in sent:
            try:
                found.append(await self.item(one, instruction))
            except LensembleError as error:
                found.append(error)
        return found

    async def item(self, sent: ItemInput, instruction: str | None) -> Item:
        """One item.

        Raises:
            LensembleError: A picture cannot be had, or there is nothing in it.
        """
        texts: list[str] = []
        urls: list[str] = []
        if isinstance(sent, str):
            texts = [sent]
        elif isinstance(sent, Fused):
            texts = [sent.text] if sent.text is not None else []
            urls = [sent.image] if isinstance(sent.image, str) else sent.image or []
            instruction = instruction if sent.instruction is None else sent.instruction
        elif isinstance(sent, Content):
            texts, urls = _taken_apart(sent.content)
            instruction = instruction if sent.instruction is None else sent.instruction
        else:
            texts, urls = _taken_apart(sent if isinstance(sent, list) else [sent])
        if len(urls) > contract.MAX_IMAGES_PER_ITEM:
            raise InvalidInputError(
                f"{len(urls)} pictures in one item; at most {contract.MAX_IMAGES_PER_ITEM}",
                field="image",
            )
        images = [await self.picture(url, f"image[{n}]") for n, url in enumerate(urls)]
        item = Item("\n".join(texts) or None, tuple(images), instruction)
        if item.text is None and not images:
            raise InvalidInputError("the item is empty; give a text, a picture, or both")
        _valid(item.text, "text")
        _valid(item.instruction, "instruction")
        return item

    async def new_item(self, sent: NewItem) -> Item:
        """What a new item's vector is made of.

        Raises:
            LensembleError: As of `item`, or it has `content` beside `text` or `image`.
        """
        if sent.content is None:
            fused = Fused(text=sent.text, image=sent.image, instruction=sent.instruction)
            return await self.item(fused, None)
        if sent.text is not None or sent.image is not None:
            raise InvalidInputError("there is `text` or `image`, too; send one", field="content")
        return await self.item(Content(content=sent.content, instruction=sent.instruction), None)

    async def message_item(self, messages: Sequence[Message], instruction: str | None) -> Item:
        """The one item of a conversation, as vLLM's clients send it.

        Raises:
            LensembleError: As of `item`, or there is not one turn of a user with at most one of the
                system before it and an empty one of the assistant after it.
        """
        roles = [message.role for message in messages]
        if roles not in (
            ["user"],
            ["user", "assistant"],
            ["system", "user"],
            ["system", "user", "assistant"],
        ):
            raise InvalidInputError(
                f"{roles}; expected one of the user, with at most one of the system before it and "
                "an empty one of the assistant after it",
                field="messages",
            )
        said = {message.role: message.content for message in messages}
        words = {role: "\n".join(_taken_apart(content)[0]) for role, content in said.items()}
        if words.get("assistant"):
            raise InvalidInputError(
                f"the assistant says {words['assistant'][:60]!r}; expected nothing",
                field="messages",
            )
        if "system" in said:
            instruction = words["system"]
        return await self.item(Content(content=said["user"], instruction=None), instruction)

    async def picture(self, url: str, field: str) -> bytes:
        """Encoded bytes of the picture that a URL holds or points to.

        Raises:
            LensembleError: It cannot be read, is too large, or may not be fetched.
        """
        if is_data_url(url):
            return decode_data_url(url, field)
        try:
            return await self._fetch(url)
        except LensembleError as error:
            raise placed(error, field) from error


def _taken_apart(content: str | list[Part]) -> tuple[list[str], list[str]]:
    """Texts, and pictures' URLs."""
    if isinstance(content, str):
        return [content], []
    texts = [part.text for part in content if isinstance(part, TextPart)]
    pictures = [part.image_url for part in content if isinstance(part, ImagePart)]
    return texts, [one if isinstance(one, str) else one.url for one in pictures]


def _valid(text: str | None, field: str) -> None:
    """Refuses halves of surrogate pairs, which JSON can carry and UTF-8 cannot."""
    if text is not None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"character {error.start} is half of a surrogate pair; send valid Unicode",
                field=field,
            ) from None
