"""Asks an OpenAI-compatible server to describe pictures: one request, its tries, its errors.

The request is that of "Create chat completion" (`POST /chat/completions`), of which only what all
such servers know is used: `model`, `messages` with `image_url` parts, `max_tokens`, `temperature`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from lensemble.settings import Settings
from lensemble_client.retry import Retry, Tries
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    OverloadedError,
)

logger = logging.getLogger(__name__)

RETRY = Retry(tries=3, first_s=0.2, most_s=2.0)
MAX_ANSWER_BYTES = 1024 * 1024

Shown = tuple[str, tuple[bytes, ...]]
"""An item's own text, empty if it has none, and its pictures as JPEG files."""

_OF_THE_INPUT = (400, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Description:
    """What a chat model says of pictures.

    Attributes:
        text: Not empty.
        tokens: That its server counted for question and answer; 0 if it does not count.
    """

    text: str
    tokens: int


class Chat:
    """Asks one chat server; to be used in one event loop.

    Args:
        settings: Server, model, key, prompt, limits.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.chat_url is not None and settings.chat_model is not None
        self._url = f"{settings.chat_url.rstrip('/')}/chat/completions"
        parts = urlsplit(settings.chat_url)
        self._name = f"the chat server {parts.scheme}://{parts.netloc}"
        self._model, self._prompt = settings.chat_model, settings.describe_prompt
        self._tokens, self._timeout_s = settings.describe_tokens, settings.chat_timeout_s
        self._key = settings.chat_key
        self._under_way = asyncio.Semaphore(settings.chat_concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def describe(self, text: str, jpegs: tuple[bytes, ...]) -> Description:
        """Asks what pictures show.

        Args:
            text: That stands with them; empty if there is none.
            jpegs: JPEG files, at least one.

        Raises:
            NotReadyError: The server cannot be reached, or fails.
            OverloadedError: It takes no more for now.
            DeadlineExceededError: It does not answer in time.
            InvalidInputError: It refuses the pictures.
            InternalError: It refuses key, model or request, or its answer has no description.
        """
        async with self._under_way:
            tries = Tries(RETRY, self._timeout_s)
            while True:
                try:
                    # Asking twice changes nothing there: to read again is safe.
                    return await self._once(self._body(text, jpegs), tries.left_s)
                except LensembleError as error:
                    await asyncio.sleep(tries.wait_after(error, writes=False))

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def _body(self, text: str, jpegs: tuple[bytes, ...]) -> bytes:
        asked = f"{self._prompt}\n\nIts text: {text}" if text else self._prompt
        content: list[dict[str, Any]] = [
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"},
            }
            for jpeg in jpegs
        ]
        content.append({"type": "text", "text": asked})
        said = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._tokens,
            "temperature": 0,
        }
        return json.dumps(said).encode()

    async def _once(self, body: bytes, timeout_s: float) -> Description:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(timeout_s),
                allow_redirects=False,  # the key is for this server
            ) as answer:
                if answer.status != 200:
                    raise self._refused(answer.status)
                read = await answer.content.read(MAX_ANSWER_BYTES + 1)
                while len(read) <= MAX_ANSWER_BYTES and (more := await answer.content.readany()):
                    read += more
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{self._name} did not answer within {self._timeout_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotReadyError(
                f"{self._name} cannot be reached ({type(error).__name__}); see that it runs"
            ) from error
        return self._description(read)

    def _refused(self, status: int) -> LensembleError:
        """The error of a status. The answer's text is left out: some servers repeat the key."""
        said = f"{self._name} answered with status {status}"
        if status == 429:
            return OverloadedError(f"{said}: too many requests; try again later")
        if status >= 500:
            return NotReadyError(f"{said}; see its log")
        if status in _OF_THE_INPUT:
            return InvalidInputError(
                f"{said}: it does not take the picture, or not with this prompt; try another one",
                field=contract.IMAGE.name,
            )
        logger.error("%s", said)
        hint = (
            "LENSEMBLE_CHAT_KEY" if status in (401, 403) else "LENSEMBLE_CHAT_URL and _CHAT_MODEL"
        )
        return InternalError(f"{said}; see {hint}")

    def _description(self, read: bytes) -> Description:
        if len(read) > MAX_ANSWER_BYTES:
            raise InternalError(f"{self._name} answered with more than {MAX_ANSWER_BYTES} bytes")
        try:
            said = json.loads(read)
            text = said["choices"][0]["message"]["content"]
            usage = said.get("usage")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InternalError(
                f"{self._name} answered with something else than a chat completion"
            ) from error
        text = text.strip() if isinstance(text, str) else ""
        if not text:
            raise InternalError(f"{self._name} gave an empty description")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or not 0 <= tokens < 2**31:
            tokens = 0
        return Description(text.encode("utf-8", "replace").decode(), tokens)
