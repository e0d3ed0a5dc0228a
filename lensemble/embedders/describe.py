"""Pictures -> descriptions, each asked for once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

from lensemble.embedders.chat import Chat, Description, Shown
from lensemble.settings import Settings
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

REMEMBERED = 4096
"""Descriptions that are kept, the least recently used one leaves first: a few MB."""

_NOTHING = Description("", 0)

Key = bytes


class Describer:
    """Describes pictures through a chat server, and remembers what it said.

    Only answers are remembered, never errors. What is remembered costs no tokens.

    Args:
        settings: Of the chat server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._runner = asyncio.Runner()
        self._chat = Chat(settings)

    def __call__(self, items: Sequence[Shown]) -> list[Description | LensembleError]:
        """Describes the pictures of items, several at a time; each fails alone.

        Args:
            items: Any number.

        Returns:
            For each item what its pictures show, empty without pictures, or its error.
        """
        return self._runner.run(self._all(items))

    def close(self) -> None:
        """Closes the connections and the event loop."""
        self._runner.run(self._chat.close())
        self._runner.close()

    async def _all(self, items: Sequence[Shown]) -> list[Description | LensembleError]:
        keys = [self._key(item) if item[1] else None for item in items]
        wanted = {
            key: item
            for key, item in zip(keys, items, strict=True)
            if key is not None and key not in self._known
        }
        answers = await asyncio.gather(*(self._one(*item) for item in wanted.values()))
        asked = dict(zip(wanted, answers, strict=True))
        found = [_NOTHING if key is None else self._found(key, asked) for key in keys]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _found(
        self, key: Key, asked: dict[Key, Description | LensembleError]
    ) -> Description | LensembleError:
        if key in self._known:  # from before, or of an equal item of this very call
            self._known.move_to_end(key)
            return Description(self._known[key], 0)
        answer = asked[key]
        if isinstance(answer, Description):
            self._known[key] = answer.text
        return answer

    async def _one(self, text: str, jpegs: tuple[bytes, ...]) -> Description | LensembleError:
        try:
            return await self._chat.describe(text, jpegs)
        except LensembleError as error:
            return error
        except Exception as error:
            logger.exception("a description failed")
            return InternalError(f"the description failed: {type(error).__name__}")

    def _key(self, item: Shown) -> Key:
        settings, (text, jpegs) = self._settings, item
        said = (
            f"{settings.chat_model}\0{settings.describe_prompt}\0{settings.describe_tokens}"
        ).encode()
        digest = hashlib.sha256()
        for part in (said, text.encode(), *jpegs):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()
