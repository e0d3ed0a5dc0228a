"""Describes pictures through a chat server, and caches the descriptions."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence

from cachetools import LRUCache

from lensemble.embedders.chat_client import ChatClient, Description
from lensemble.embedders.chat_input import ChatInput
from lensemble.settings import Settings
from lensemble_contract.errors import InternalError, LensembleError

logger = logging.getLogger(__name__)

# Number of descriptions in the cache; they take a few MB.
CACHE_SIZE = 4096

_NO_DESCRIPTION = Description("", 0)

# SHA-256 of everything that a description depends on.
Key = bytes


class Describer:
    """Describes pictures through a chat server, and caches its descriptions.

    The least recently used descriptions are dropped first. Errors are not cached. A cached
    description costs no tokens.

    Args:
        settings: chat server, model, prompt and limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache: LRUCache[Key, str] = LRUCache(CACHE_SIZE)
        self._runner = asyncio.Runner()
        self._chat = ChatClient(settings)

    def __call__(self, items: Sequence[ChatInput]) -> list[Description | LensembleError]:
        """Describes the pictures of several items at the same time; each item has its own error.

        Args:
            items: any number of items.

        Returns:
            For each item, in order, the description of its pictures, empty without pictures, or
            its error.
        """
        return self._runner.run(self._describe_all(items))

    def close(self) -> None:
        """Closes the connections and the event loop."""
        self._runner.run(self._chat.close())
        self._runner.close()

    async def _describe_all(self, items: Sequence[ChatInput]) -> list[Description | LensembleError]:
        keys = [self._key(item) if item.jpegs else None for item in items]
        missing = {
            key: item
            for key, item in zip(keys, items, strict=True)
            if key is not None and key not in self._cache
        }
        answers: dict[Key, Description | LensembleError] = {
            key: Description(self._cache[key], tokens=0)
            for key in keys
            if key is not None and key in self._cache
        }
        new_answers = await asyncio.gather(*(self._describe(item) for item in missing.values()))
        answers.update(zip(missing, new_answers, strict=True))
        results: list[Description | LensembleError] = []
        for key in keys:
            if key is None:
                results.append(_NO_DESCRIPTION)
                continue
            answer = answers[key]
            results.append(answer)
            if isinstance(answer, Description):
                self._cache[key] = answer.text
                # If another item of this call is equal, it costs no tokens.
                answers[key] = Description(answer.text, tokens=0)
        return results

    async def _describe(self, item: ChatInput) -> Description | LensembleError:
        try:
            return await self._chat.describe(item.text, item.jpegs)
        except LensembleError as error:
            return error
        except Exception as error:
            logger.exception("a description failed")
            return InternalError(f"the description failed: {type(error).__name__}")

    def _key(self, item: ChatInput) -> Key:
        settings = self._settings
        question = f"{settings.chat_model}\0{settings.describe_prompt}\0{settings.describe_tokens}"
        digest = hashlib.sha256()
        for part in (question.encode(), item.text.encode(), *item.jpegs):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()
